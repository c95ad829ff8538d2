"""Whose a room is and what it stands on, written where no agent can write: in its quarantine's directory.

The invariant: it is written once the room is whole and put away before the first file is removed, so a room
without it is half made or half removed; and what it does not vouch for (another layout, another user, files
that a crash of the host may have torn) is not used again. Beside it lies the agent's first prompt, so that a
later life is asked in the same words, whatever has changed since in settings, skills or templates, and the
names that the repository's set-up made, which are no work of the agent's. Called by `worktree`, which writes
it, and `repositories`, which looks for it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import re
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator.core.recovery import directory_of
from orchestrator.errors import RepositoryError, RoomForsaken, RoomUnusable
from orchestrator.repo.base import Base
from orchestrator.repo.removal import remove_tree
from sandbox.base import Directory, Layers

log = logging.getLogger(__name__)

_ROOM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_NAME = "tenancy.json"
#: What it is called once the room is given up.
_FORMER = "former.json"
_PROMPT_NAME = "prompt.md"
_SETUP_NAME = "setup.json"
_VERSION = 1
_MAX_BYTES = 16 * 1024
_MAX_SETUP_BYTES = 16 * 1024 * 1024


@functools.cache
def boot_id() -> str:
    """Return the id of this boot of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class Tenancy:
    """One agent's room."""

    agent: str
    #: The remote and branch that the work starts from, and the commit.
    url: str
    branch: str
    base: str
    #: `layers` or `directory`; who owns the files; where the objects of the base are seen from inside.
    kind: str
    user: int
    objects: str
    #: The boot in which it was last written into; None where it was left in good order.
    boot: str | None
    version: int = _VERSION
    #: The commit whose checkout lies below the files; empty where that is the base.
    floor: str = ""
    #: The trees from and to which the files are just being moved; empty where they stand still.
    moving: tuple[str, ...] = ()

    def write(self, quarantine: Path) -> None:
        """Write it in place of an older one, whole or not at all."""
        _write(quarantine / _NAME, json.dumps(asdict(self)))

    def leave(self, quarantine: Path) -> None:
        """Say that nothing writes into the room any more, and nothing was torn."""
        replace(self, boot=None).write(quarantine)

    def check(self, *, agent: str, kind: str, user: int, objects: str) -> None:
        """Raise `RoomUnusable` where the room is not this agent's, or was made for other sandboxes."""
        if self.agent != agent:
            raise RoomUnusable(f"the room is that of agent {self.agent[:64]}")
        if (self.version, self.kind, self.user, self.objects) != (_VERSION, kind, user, objects):
            raise RoomUnusable("the room was made for another kind of sandbox, or by another version")
        if self.boot not in {None, boot_id()}:
            raise RoomUnusable("the host went down in the middle of the work, so files may be torn")


def move_in(
    quarantine: Path,
    agent: str,
    base: Base,
    workspace: Layers | Directory,
    *,
    user: int,
    objects: str,
    kept: bool,
) -> Tenancy:
    """Write that a room is an agent's, and whole; of one that was `kept`, a move that was cut off remains."""
    moving = tuple(read_tenancy(quarantine).moving) if kept else ()
    kind = kind_of(workspace)
    tenancy = Tenancy(agent, base.url, base.branch, base.commit, kind, user, objects, boot_id())
    tenancy = replace(tenancy, floor=base.floor, moving=moving)
    tenancy.write(quarantine)
    return tenancy


def forsake(quarantine: Path) -> None:
    """Give the room up, before anything of it is removed; where it was never vouched for, do nothing."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        (quarantine / _NAME).rename(quarantine / _FORMER)


async def remove_room(room: Path, quarantine: Path) -> None:
    """Remove an agent's directory and its quarantine, each as far as it is there.

    Cut off in the middle, it leaves what nobody takes for an agent's work: half of that must never be
    salvaged in place of the whole, nor be gone on with.
    """
    forsake(quarantine)
    for place in (room, quarantine):
        with contextlib.suppress(FileNotFoundError):
            await remove_tree(place)


def keep_prompt(quarantine: Path, text: str) -> None:
    """Keep the first prompt of the agent."""
    _write(quarantine / _PROMPT_NAME, text)


def kept_prompt(quarantine: Path) -> str | None:
    """Return the first prompt that was kept, or None."""
    try:
        return _read(quarantine / _PROMPT_NAME).decode()
    except FileNotFoundError:
        return None
    except (NotADirectoryError, IsADirectoryError, ValueError):
        log.warning("the prompt that was kept cannot be read", extra={"directory": quarantine.name})
        return None


def keep_setup(quarantine: Path, layer: str | None, roots: tuple[str, ...]) -> None:
    """Remember which layer of a set-up the room stands on (an empty name: on none), and what it made.

    Where that is not known, what was remembered stays.
    """
    if layer is not None:
        _write(quarantine / _SETUP_NAME, json.dumps([layer, roots]))


def kept_setup(quarantine: Path) -> tuple[str, tuple[str, ...]]:
    """Return the name of the layer that the room stood on last, and the names that it made, if any."""
    try:
        layer, roots = json.loads(_read(quarantine / _SETUP_NAME, _MAX_SETUP_BYTES))
        return str(layer), tuple(str(root) for root in roots)
    except (FileNotFoundError, NotADirectoryError):
        return "", ()
    except (IsADirectoryError, ValueError, TypeError):
        log.warning("what is kept of a set-up cannot be read", extra={"directory": quarantine.name})
        return "", ()


def _read(path: Path, most: int = -1) -> bytes:
    """Return what a file of ours holds; `ValueError` for what we never make, which is not waited for."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise ValueError(f"{path.name} is no file but a link or a socket") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError(f"{path.name} is no file")
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(fd)


def _write(path: Path, text: str) -> None:
    made = path.with_name(f"{path.name}.new")
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(text.encode())
    try:
        made.rename(path)
    except IsADirectoryError:  # nobody of ours made it
        path.rename(path.with_name(f"{path.name}.strange"))
        made.rename(path)


def read_tenancy(quarantine: Path) -> Tenancy:
    """Return what was written; raises `RoomUnusable` where there is none, or nothing of sense.

    Of those that were given up it raises `RoomForsaken`. An `OSError` that may pass (no descriptor free, a
    busy disk) is raised as it is.
    """
    try:
        fields = json.loads(_read(quarantine / _NAME, _MAX_BYTES))
        tenancy = Tenancy(**fields)
    except FileNotFoundError:
        if (quarantine / _FORMER).exists():
            raise RoomForsaken("its removal had begun") from None
        raise RoomUnusable("there is none, or it was never whole") from None
    except (NotADirectoryError, IsADirectoryError, ValueError, TypeError, RecursionError) as error:
        raise RoomUnusable(f"what is written of it cannot be read: {error}") from None
    texts = (tenancy.agent, tenancy.url, tenancy.branch, tenancy.base, tenancy.kind, tenancy.objects)
    if not all(isinstance(text, str) for text in (*texts, tenancy.floor, *tenancy.moving)):
        raise RoomUnusable("what is written of it makes no sense")
    return tenancy


def kind_of(workspace: Layers | Directory) -> str:
    """Return the word for a kind of workspace."""
    return "layers" if isinstance(workspace, Layers) else "directory"


def room_name(agent_id: str, task_id: str) -> str:
    """Return the name of an agent's directories; raises `RepositoryError` for ids that make none."""
    name = directory_of(agent_id, task_id)
    if not _ROOM.fullmatch(name):
        raise RepositoryError("the ids of agent and task do not make the name of a directory")
    return name
