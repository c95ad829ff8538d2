"""Find the best sandbox backend that really works on this host, and say why the others do not.

The invariant: a backend is offered only after a command has run in it, just now, as the user that
agents will run as; and what `enforced` names was seen to be refused. Callers: `orchestrator.assembly`
and the command `doctor`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from sandbox.base import (
    Backend,
    Directory,
    Layers,
    Limits,
    SandboxError,
    SandboxUnavailable,
    Spec,
    User,
)
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.cgroup import CONTROLLERS, Cgroups
from sandbox.delegation import CgroupsUnavailable, find_delegated
from sandbox.layout import SYSTEM_PATH
from sandbox.podman import RUNTIMES, PodmanBackend
from sandbox.trial import enforced_by
from sandbox.trusted import ProcessBackend

#: Makes a backend that was seen to work, given what more it shall have.
Build = Callable[..., BubblewrapBackend | PodmanBackend | ProcessBackend]

PREFERENCES = ("auto", "podman", "bubblewrap", "process")
_PROBE_S = 30.0
_ALWAYS_ENFORCED = frozenset({"open_files", "tmp_mb", "home_mb"})
_FEW_PIDS = 8
_TAIL_CHARS = 300
#: Who puts a process into a cgroup waits until every processor has come by.
_NO_GAIN = (
    "it would limit nothing, for no controller is ours here, and the PID namespace kills and proves as well;"
    " entering one costs each start some 10 ms"
)


@dataclass(frozen=True, slots=True)
class Probed:
    """The backend to use, and for each other one (or ability of it) why not and what to do about it."""

    backend: Backend
    refusals: dict[str, str] = field(default_factory=dict)
    #: What the backend holds each tree with, where its tier says `+cgroup`; the caller's to reap and close.
    cgroups: Cgroups | None = None


def default_user() -> User:
    """Return the identity for agents: ourselves, or `nobody` where we are root."""
    if os.geteuid() == 0:
        return user_from_name("nobody")
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = str(os.geteuid())
    return User(os.geteuid(), os.getegid(), name)


def user_from_name(name: str) -> User:
    """Return the host user called `name`; raises `SandboxUnavailable` for an unknown one or uid 0."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise SandboxUnavailable(f"there is no user {name!r} (useradd --system {name})") from None
    if entry.pw_uid == 0:
        raise SandboxUnavailable(f"user {name!r} is uid 0, which agents never run as: name another user")
    return User(entry.pw_uid, entry.pw_gid, entry.pw_name)


async def probe(
    preference: str = "auto",
    *,
    user: User | None = None,
    read_only: tuple[Path, ...] = (),
    path: str = "/usr/local/bin:/usr/bin:/bin",
    trusted: bool = False,
    tools_path: str = SYSTEM_PATH,
    instance: str | None = None,
    may_move: bool = True,
    scratch: Path | None = None,
    image: str | None = None,
    images: Path | None = None,
) -> Probed:
    """Return the backend to use: the preferred one, or with `auto` the best; `process` only if `trusted`.

    With an `image`, and a directory for podman to keep `images` in, podman is tried before bubblewrap.
    `instance` names the cgroups to make (see `sandbox.cgroup`); without it there are none. `scratch` is where
    plain processes get their homes. Raises
    `SandboxUnavailable` with every reason where none works.
    """
    if preference not in PREFERENCES:
        raise SandboxUnavailable(f"unknown sandbox backend {preference!r}: one of {', '.join(PREFERENCES)}")
    runner = user or default_user()
    refusals = {}
    if image is None or images is None:
        refusals["podman"] = "it has no image to run agents in (set SANDBOX_IMAGE)"
    if not trusted:
        refusals["process"] = "isolates nothing: only for trusted code (SANDBOX_ENABLED=false)"
    wanted = ("podman", "bubblewrap", "process") if preference == "auto" else (preference,)
    if trusted and preference == "auto":
        wanted = ("process",)
    podman = partial(PodmanBackend, runner, root=images or Path())
    isolating: dict[str, Any] = {"read_only": read_only, "path": path, "tools_path": tools_path}
    ways: dict[str, Callable[[], Awaitable[Build]]] = {
        "podman": partial(_probe_podman, partial(podman, **isolating), image, tools_path, refusals),
        "bubblewrap": partial(_probe_isolation, partial(BubblewrapBackend, runner, **isolating), refusals),
        "process": partial(_probe_process, partial(ProcessBackend, runner, path=path, scratch=scratch)),
    }
    for name in wanted:
        if name in refusals:
            continue
        try:
            build = await ways[name]()
        except (SandboxError, OSError) as error:
            refusals[name] = _advise(str(error))
        else:
            return await _with_cgroups(build, refusals, instance, may_move=may_move)
    reasons = "; ".join(f"{name}: {refusals[name]}" for name in wanted if name in refusals)
    raise SandboxUnavailable(f"no sandbox works here: {reasons}")


async def _with_cgroups(
    build: Build, refusals: dict[str, str], instance: str | None, *, may_move: bool
) -> Probed:
    """Return the backend that works, with cgroups where a tree in one was just seen to end."""
    plain = build()
    if instance is None:
        return Probed(plain, refusals)
    cgroups: Cgroups | None = None
    try:
        cgroups = Cgroups(find_delegated(), instance, may_move=may_move)
        if plain.namespaced and not cgroups.controllers:
            refusals.update({CONTROLLERS[name]: why for name, why in cgroups.refusals.items()})
            raise CgroupsUnavailable(_NO_GAIN)
        await _run_true(build(cgroups=cgroups), layered=False)
        more = await enforced_by(cgroups, refusals)
    except (SandboxError, OSError) as error:
        if cgroups is not None:
            cgroups.close_nowait()
        refusals["cgroup"] = _tail(str(error))
        return Probed(plain, _without(refusals, plain.enforced))
    backend = build(cgroups=cgroups, enforced=plain.enforced | more)
    return Probed(backend, _without(refusals, backend.enforced), cgroups)


def _without(refusals: dict[str, str], enforced: frozenset[str]) -> dict[str, str]:
    """Return the refusals apart from those of limits that are enforced by other means."""
    return {name: why for name, why in refusals.items() if name not in enforced}


async def _probe_process(build: Callable[..., ProcessBackend]) -> Build:
    await _run_true(build(), layered=False)
    return build


async def _probe_podman(
    build: Callable[..., PodmanBackend], image: str | None, tools_path: str, refusals: dict[str, str]
) -> Build:
    """Return podman with the first runtime that runs the image: `crun` is quicker, not every host lets it."""
    runtimes = [name for name in RUNTIMES if shutil.which(name, path=tools_path)] or list(RUNTIMES[:1])
    fetching = build(image=image, runtime=runtimes[0])
    await fetching.fetch_image()
    said = []
    for runtime in runtimes:
        try:
            return await _probe_isolation(partial(build, image=fetching.image, runtime=runtime), refusals)
        except SandboxError as error:
            said.append(f"{runtime}: {_tail(str(error))}")
    raise SandboxUnavailable("; ".join(said))


async def _probe_isolation(
    build: Callable[..., BubblewrapBackend | PodmanBackend], refusals: dict[str, str]
) -> Build:
    layered = True
    try:
        await _run_true(build(layered=True, enforced=_ALWAYS_ENFORCED), layered=True)
    except SandboxError as error:
        await _run_true(build(layered=False, enforced=_ALWAYS_ENFORCED), layered=False)
        layered = False
        refusals["overlay"] = f"{_tail(str(error))} (checkouts are copied; Linux 5.11 or newer has it)"
    enforced = _ALWAYS_ENFORCED | {"pids"}
    if not await _refuses_forks(build(layered=layered, enforced=enforced)):
        enforced = _ALWAYS_ENFORCED
        refusals["pids"] = "processes are not counted for each sandbox (Linux 5.14 or newer does)"
    return partial(build, layered=layered, enforced=enforced)


async def _run_true(backend: Backend, *, layered: bool) -> None:
    await _run(backend, ("true",), layered=layered, limits=Limits())


async def _refuses_forks(backend: Backend) -> bool:
    """Return whether a sandbox of few processes was seen to start a few, and to be refused many.

    The refusal is told from inside: a launch that fails for another reason proves nothing.
    """
    many = f"! (i=0; while [ $i -lt {4 * _FEW_PIDS} ]; do sleep 60 & i=$((i+1)); done)"
    script = f"sleep 0 & wait; {many}"
    try:
        await _run(backend, ("sh", "-c", script), layered=False, limits=Limits(pids=_FEW_PIDS))
    except SandboxError:
        return False
    return True


async def _run(backend: Backend, command: tuple[str, ...], *, layered: bool, limits: Limits) -> None:
    with _scratch(backend.user) as directories:
        workspace = Layers(*directories) if layered else Directory(directories[0])
        with trio.move_on_after(_PROBE_S) as scope:
            async with backend.open(Spec("probe", command, workspace, limits=limits)) as sandbox:
                ended = await sandbox.wait()
                if not ended.ok:
                    said = bytes(await sandbox.stderr.receive_some()).decode(errors="replace")
                    raise SandboxError(f"{command[0]} ended with {ended}: {_tail(said)}")
        if scope.cancelled_caught:
            raise SandboxError(f"{command[0]} did not end within {_PROBE_S:.0f} s")


@contextmanager
def _scratch(user: User) -> Iterator[list[Path]]:
    """Make four directories of the user's (lower, upper, work, merged), and remove them."""
    root = Path(tempfile.mkdtemp(prefix="sandbox-probe-"))
    try:
        root.chmod(0o755)
        directories = [root / name for name in ("lower", "upper", "work", "merged")]
        for directory in directories:
            directory.mkdir()
            os.chown(directory, user.uid, user.gid)
        yield directories
    finally:
        inner = root / "work" / "work"
        if inner.exists():
            inner.chmod(0o700)  # the kernel leaves it without any permission
        shutil.rmtree(root, ignore_errors=True)


def _tail(text: str) -> str:
    return " ".join(text.split())[-_TAIL_CHARS:]


def _advise(text: str) -> str:
    """Return a refusal in one line, with the fix where we know it."""
    said = _tail(text)
    if "ser namespace" in text or "unshare failed" in text or "unshare:" in text:
        return (
            f"{said} (user namespaces are off: sysctl kernel.unprivileged_userns_clone=1, "
            "user.max_user_namespaces=10000, kernel.apparmor_restrict_unprivileged_userns=0)"
        )
    return said
