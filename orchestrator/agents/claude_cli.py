"""Claude Code on this host: where its program is, and whether that is one we can work with.

It is looked for in `CLAUDE_CODE_PATH`, in the image that agents run in, in the sandbox's `PATH`, in the
supervisor's, and in the wheel of `claude-agent-sdk`, which has it as one file. The invariant: a program that
`ready` returns has said its version inside a sandbox, so it is there, runs, and is new enough. Callers:
`claude_code`, `isolation` (for the image's own), and `orchestrator doctor`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.agents.base import Session
from orchestrator.errors import AgentError
from sandbox.base import Backend, Bind, Directory, Layers, Limits, SandboxError, Spec, User
from sandbox.reach import closed_to
from sandbox.relay import Sink, Tail, relay

#: Where the program stands inside a namespaced sandbox.
TARGET = "/orchestrator/claude"
Version = tuple[int, int, int]
#: The first version that was seen to do all that is asked of it.
LEAST: Version = (2, 1, 197)
VERSION_S = 20.0
HOW = (
    "pip install 'orchestrator[claude-code]' or npm install -g @anthropic-ai/claude-code, "
    "or set CLAUDE_CODE_PATH"
)
_TAIL_BYTES = 2000
#: Says the version of the program on PATH, and last of all where that is.
_OWN = 'found=$(command -v claude) && "$found" --version && echo "$found"'


class ClaudeCodeUnusable(AgentError):
    """There is no Claude Code here that could be used."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that works, and its version."""

    path: Path
    version: Version
    #: Whether it is the image's own: then the path is one inside, and nothing is shown there.
    own: bool = False

    def __str__(self) -> str:
        return f"Claude Code {written(self.version)} ({self.path}{' of the image' if self.own else ''})"

    def seen(self, backend: Backend) -> str:
        """Return its path inside a sandbox."""
        return str(self.path) if self.own else backend.seen(self.path, TARGET)

    @property
    def binds(self) -> tuple[Bind, ...]:
        """How it is shown inside: as it is, read-only."""
        return () if self.own else (Bind(self.path, TARGET),)


def written(version: Version) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))


@dataclass(frozen=True, slots=True)
class Place:
    """Where to run a program to ask for its version."""

    backend: Backend
    workspace: Layers | Directory
    label: str
    binds: tuple[Bind, ...] = ()
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def of(cls, session: Session) -> Place:
        """Return the place where an agent works."""
        return cls(session.backend, session.workspace, session.agent_id, session.binds, session.limits)


class ClaudeCli:
    """Finds the program, and remembers what it said of its version."""

    def __init__(
        self, path: Path | None = None, sandbox_path: str = "", *, own: Program | None = None
    ) -> None:
        """Take what the settings say (its path, `PATH` in the sandbox), and the image's own program."""
        self._path = path
        self._sandbox_path = sandbox_path
        self._own = own if path is None else None
        #: What was said by the file as it was.
        self._known: dict[tuple[Path, int, int], Version] = {}

    def find(self) -> Path:
        """Return the program's file; raises `ClaudeCodeUnusable` where there is none, or an old one."""
        if self._own is not None:
            return self._own.path
        try:
            path = self._look().resolve()
            version = self._known.get(_identity(path), LEAST)
        except OSError as error:
            raise ClaudeCodeUnusable(
                f"Claude Code cannot be looked at: {error}; set CLAUDE_CODE_PATH"
            ) from error
        if version < LEAST:
            raise ClaudeCodeUnusable(
                f"Claude Code {written(version)} ({path}) is too old, {written(LEAST)} is needed: {HOW}"
            )
        return path

    async def ready(self, place: Place) -> Program:
        """Return a program that works there; raises `ClaudeCodeUnusable` with one line that names the fix."""
        if self._own is not None:
            return self._own
        path = self.find()
        _check_reach(path, place.backend.user)
        identity = _identity(path)
        if identity not in self._known:
            self._known[identity] = await _version(Program(path, LEAST), place)
            self.find()
        return Program(path, self._known[identity])

    def _look(self) -> Path:
        if self._path is not None:
            if not self._path.is_file():
                raise ClaudeCodeUnusable(
                    f"CLAUDE_CODE_PATH={self._path} is no file: set it to the program `claude`"
                )
            return self._path
        found = shutil.which("claude", path=self._sandbox_path) or shutil.which("claude")
        path = Path(found) if found else _bundled()
        if path is None:
            raise ClaudeCodeUnusable(f"there is no Claude Code on this host: {HOW}")
        return path


async def own_program(place: Place) -> Program | None:
    """Return the program that the image has of its own, if it is one that we can work with.

    Raises `SandboxError` where nothing runs in the image.
    """
    said, _ = await _ask(place, ("sh", "-c", _OWN))
    version, path = _found(said), said.strip().rpartition(b"\n")[2]
    if version is None or version < LEAST or not path.startswith(b"/"):
        return None
    return Program(Path(os.fsdecode(path)), version, own=True)


def _bundled() -> Path | None:
    """Return the program in the SDK's wheel, without importing the SDK."""
    found = importlib.util.find_spec("claude_agent_sdk")
    path = Path(found.origin).parent / "_bundled" / "claude" if found and found.origin else None
    return path if path is not None and path.is_file() else None


def _identity(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size


def _check_reach(path: Path, user: User) -> None:
    """Raise where the user that agents run as cannot get at the program."""
    closed = closed_to(user, path.parent)
    if closed is not None:
        raise ClaudeCodeUnusable(
            f"Claude Code is {path}, but {user.name}, who agents run as, may not enter {closed}: "
            f"chmod o+x {closed}, or set CLAUDE_CODE_PATH to a program elsewhere"
        )


async def _version(program: Program, place: Place) -> Version:
    """Ask a program for its version, inside; raises `ClaudeCodeUnusable` where it does not say."""
    said = b""
    try:
        said, how = await _ask(place, (program.seen(place.backend), "--version"), program.binds)
    except SandboxError as error:
        if error.retryable:
            raise
        how = str(error)
    found = _found(said)
    if found is None:
        raise ClaudeCodeUnusable(f"{program.path} does not run in the sandbox as Claude Code ({how}): {HOW}")
    return found


async def _ask(place: Place, command: tuple[str, ...], binds: tuple[Bind, ...] = ()) -> tuple[bytes, str]:
    """Run a command there; return what it said, and how it ended or what it complained of."""
    spec = Spec(
        label=place.label,
        command=command,
        workspace=place.workspace,
        binds=(*place.binds, *binds),
        limits=place.limits,
    )
    said, complaint = Tail(_TAIL_BYTES), Tail(_TAIL_BYTES)
    how = f"it did not say its version within {VERSION_S:g} s"
    with place.backend.clock.move_on_after(VERSION_S):
        async with place.backend.open(spec) as sandbox:
            how = str(await relay(sandbox, on_stdout=_into(said), on_stderr=_into(complaint)))
    told = " ".join((complaint.bytes() or said.bytes()).decode(errors="replace").split())[-300:]
    return said.bytes(), told or how


def _found(said: bytes) -> Version | None:
    found = re.search(rb"(\d{1,6})\.(\d{1,6})\.(\d{1,6})", said)
    return (int(found[1]), int(found[2]), int(found[3])) if found is not None else None


def _into(tail: Tail) -> Sink:
    async def keep(chunk: bytes) -> None:
        tail.add(chunk)

    return keep
