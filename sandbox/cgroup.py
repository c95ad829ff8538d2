"""Cgroups of our own (v2): one leaf a sandbox, to kill, freeze, limit and measure a whole tree at the kernel.

    <our cgroup, delegated to us>/orchestrator-<instance>/trees/<label>.<random>    one live sandbox
                                                         /supervisor               us, where we had to move

The invariant: a process is in its leaf before it runs anything of an agent's, and cannot leave it; so
`populated 0` proves that nothing of it is left. A leaf's name says whose it is: what a crash left is found by
it alone, and another instance's is never touched. Nothing is written outside a cgroup that is ours
(`sandbox.delegation`). Callers: `sandbox.confined`, `sandbox.process` (one leaf each) and the backends,
which open leaves; the supervisor, to reap.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import select
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import trio

from sandbox.base import MIB, Limits, SandboxLaunchFailed, Spec, Usage
from sandbox.delegation import CgroupsUnavailable

#: What is limited by cgroups, where the kernel lets us: controller, and the field of `Limits` that it keeps.
CONTROLLERS: Mapping[str, str] = {"memory": "memory_mb", "cpu": "cpus", "pids": "pids"}
#: How often a freeze looks whether the kernel is done: it needs microseconds, unless a device is waited for.
_LOOKS = 2000
_PERIOD_US = 100_000
_INSTANCE = re.compile(r"[a-z0-9-]{1,40}")
_PREFIX = "orchestrator-"


class Leaf:
    """The cgroup of one sandbox. What cannot be written, because it is gone, needs no writing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add_nowait(self, pid: int) -> None:
        """Put a process in; its children are born here. Raises `SandboxLaunchFailed`."""
        try:
            _write(self.path / "cgroup.procs", str(pid))
        except OSError as error:
            raise SandboxLaunchFailed(f"process {pid} cannot enter {self.path}: {error.strerror}") from error

    def kill_nowait(self) -> None:
        """SIGKILL everything in it, at once: nothing that forks meanwhile escapes."""
        with contextlib.suppress(OSError):
            _write(self.path / "cgroup.kill", "1")

    def freeze_nowait(self) -> None:
        """Stop everything in it, and what is born later; return when it stands still, if it can."""
        with contextlib.suppress(OSError):
            _write(self.path / "cgroup.freeze", "1")
            for _ in range(_LOOKS):
                if _flat(self.path / "cgroup.events").get("frozen", 1):
                    return
                os.sched_yield()

    def thaw_nowait(self) -> None:
        """Let it go on."""
        with contextlib.suppress(OSError):
            _write(self.path / "cgroup.freeze", "0")

    def pids(self) -> list[int]:
        """Return the processes in it; one that is not of our PID namespace shows as 0."""
        with contextlib.suppress(OSError):
            return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]
        return []

    async def wait_empty(self) -> None:
        """Wait until nothing lives in it."""
        try:
            events = os.open(self.path / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        # A file of the kernel's is always readable: that it changed is a priority event, and an epoll of
        # its own turns that into something readable.
        with contextlib.closing(select.epoll()) as changed, contextlib.ExitStack() as ours:
            ours.callback(os.close, events)
            changed.register(events, select.EPOLLPRI)
            while b"populated 1" in os.pread(events, 4096, 0):
                await trio.lowlevel.wait_readable(changed.fileno())

    def usage(self, otherwise: Usage) -> Usage:
        """Return what it uses, taking from `otherwise` what the kernel does not count here."""
        memory = otherwise.memory_bytes
        with contextlib.suppress(OSError, ValueError):
            memory = int((self.path / "memory.current").read_text())
        micros = _flat(self.path / "cpu.stat").get("usage_usec")
        seconds = otherwise.cpu_seconds if micros is None else round(micros / 1e6, 2)
        return Usage(memory, seconds, otherwise.processes, self.oom_kills())

    def oom_kills(self) -> int:
        """Return how many of its processes the kernel killed for want of memory."""
        return _flat(self.path / "memory.events").get("oom_kill", 0)

    def throttled(self) -> int:
        """Return in how many periods it got no more processor time because of its ceiling."""
        return _flat(self.path / "cpu.stat").get("nr_throttled", 0)

    def refused_forks(self) -> int:
        """Return how often it was not let start another process because of its ceiling."""
        return _flat(self.path / "pids.events").get("max", 0)

    def remove_nowait(self) -> bool:
        """Remove it with all that is below; return whether it is gone."""
        for below, _, _ in os.walk(self.path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(below)  # noqa: PTH106 - a string, not a Path
        return not self.path.exists()


class Cgroups:
    """The part of the hierarchy that belongs to one instance."""

    def __init__(self, place: Path, instance: str, *, may_move: bool = True) -> None:
        """Make ours below `place`, which must be ours to write; `may_move` puts this process into a leaf.

        A cgroup that has processes of its own cannot limit those below it. Raises `CgroupsUnavailable`.
        """
        if not _INSTANCE.fullmatch(instance):
            raise CgroupsUnavailable(f"instance {instance!r} is not 1 to 40 of a-z, 0-9, '-'")
        if place.name == "supervisor" and place.parent.name == _PREFIX + instance:
            place = place.parent.parent  # a start after an exec: we have moved already
        self.home = place / (_PREFIX + instance)
        self._trees = self.home / "trees"
        self._open: set[str] = set()
        self._left: list[Leaf] = []
        #: Why a controller cannot be had, by its name.
        self.refusals: dict[str, str] = {}
        try:
            self._trees.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CgroupsUnavailable(f"cannot make {self._trees}: {error.strerror}") from error
        if not (self._trees / "cgroup.kill").exists():
            self.close_nowait()
            raise CgroupsUnavailable("cgroup.kill is missing (Linux 5.14 or newer has it)")
        self.controllers = frozenset(name for name in CONTROLLERS if self._enable(name, may_move=may_move))

    def _enable(self, controller: str, *, may_move: bool) -> bool:
        place = self.home.parent
        if controller not in (place / "cgroup.controllers").read_text().split():
            self.refusals[controller] = (
                f"cgroup v1 holds the controller {controller!r} (systemd.unified_cgroup_hierarchy=1)"
                if controller not in (_top(place) / "cgroup.controllers").read_text().split()
                else f"{place} was given no controller {controller!r} (Delegate=yes in the service's unit)"
            )
            return False
        try:
            for level in (place, self.home, self._trees):
                try:
                    _turn_on(level, controller)
                except OSError as error:
                    if error.errno != errno.EBUSY or level != place or not may_move:
                        raise
                    self._move()
                    _turn_on(level, controller)
        except OSError as error:
            said = "it has processes of its own" if error.errno == errno.EBUSY else error.strerror
            self.refusals[controller] = f"{place} cannot hand on {controller!r}: {said}"
            return False
        return True

    def _move(self) -> None:
        """Go into a leaf of our own, so that where we were can limit what is below."""
        leaf = self.home / "supervisor"
        leaf.mkdir(exist_ok=True)
        _write(leaf / "cgroup.procs", "0")

    def open_leaf(self, label: str, limits: Limits, extra_pids: int = 0) -> Leaf:
        """Make the cgroup of one sandbox, with its limits; `extra_pids` are ours beside the command's.

        Raises `SandboxLaunchFailed`.
        """
        name = f"{label}.{secrets.token_hex(4)}"
        leaf = Leaf(self._trees / name)
        self._open.add(name)
        try:
            leaf.path.mkdir()
            for file, value in settings(limits, self.controllers, extra_pids).items():
                with contextlib.suppress(FileNotFoundError):  # a kernel without swap accounting, say
                    _write(leaf.path / file, value)
        except OSError as error:
            self.close_leaf_nowait(leaf)
            raise SandboxLaunchFailed(f"cannot make {leaf.path}: {error.strerror}") from error
        return leaf

    def close_leaf_nowait(self, leaf: Leaf) -> None:
        """Remove a leaf; where something in it will not die, this tries again with the next one."""
        self._open.discard(leaf.path.name)
        self._left.append(leaf)
        self._left = [left for left in self._left if not left.remove_nowait()]
        for left in self._left:
            left.kill_nowait()

    async def reap(self, deadline_s: float, *, everywhere: bool = False) -> list[str]:
        """Kill and remove what no sandbox of this process has open; return the labels that are gone.

        `everywhere` looks for this instance in the whole hierarchy: where an earlier run was started from
        elsewhere. Only for who knows that no other process is this instance now.
        """
        homes = {self.home, *(_found(self.home) if everywhere else ())}
        trees = [tree for home in homes for tree in _folders(home / "trees")]
        left = [Leaf(tree) for tree in trees if tree.name not in self._open]
        for leaf in left:
            leaf.kill_nowait()
        with trio.move_on_after(deadline_s):
            for leaf in left:
                await leaf.wait_empty()
        gone = [leaf.path.name.rpartition(".")[0] for leaf in left if leaf.remove_nowait()]
        for home in homes - {self.home}:
            Leaf(home).remove_nowait()
        return gone

    def close_nowait(self) -> None:
        """Remove what is ours and empty; where this process had to move in, that much stays."""
        Leaf(self.home).remove_nowait()


@contextlib.contextmanager
def open_leaf(cgroups: Cgroups | None, spec: Spec, extra_pids: int = 0) -> Iterator[Leaf | None]:
    """Hold a leaf for a sandbox, where there are cgroups; it is removed at the end, empty or not yet.

    `extra_pids` are ours beside the command's. Raises `SandboxLaunchFailed`.
    """
    if cgroups is None:
        yield None
        return
    leaf = cgroups.open_leaf(spec.label, spec.limits, extra_pids)
    try:
        yield leaf
    finally:
        cgroups.close_leaf_nowait(leaf)


def settings(limits: Limits, controllers: Iterable[str], extra_pids: int = 0) -> dict[str, str]:
    """Return what to write into which file of a leaf, for the controllers that are there."""
    found = {}
    if "memory" in controllers and limits.memory_mb is not None:
        found["memory.max"] = str(limits.memory_mb * MIB)
        found["memory.swap.max"] = "0"
        found["memory.oom.group"] = "1"
    if "cpu" in controllers and limits.cpus is not None:
        found["cpu.max"] = f"{max(1000, round(limits.cpus * _PERIOD_US))} {_PERIOD_US}"
    if "pids" in controllers and limits.pids is not None:
        found["pids.max"] = str(limits.pids + extra_pids)
    return found


def _turn_on(level: Path, controller: str) -> None:
    if controller not in (level / "cgroup.subtree_control").read_text().split():
        _write(level / "cgroup.subtree_control", f"+{controller}")


def _found(home: Path) -> Iterator[Path]:
    """Yield every cgroup that is called as `home` is."""
    for directory, names, _ in os.walk(_top(home)):
        if home.name in names:
            yield Path(directory, home.name)


def _top(place: Path) -> Path:
    """Return the highest cgroup that is shown here."""
    return next(path for path in (place, *place.parents) if not (path.parent / "cgroup.procs").exists())


def _folders(path: Path) -> list[Path]:
    try:
        return [entry for entry in path.iterdir() if entry.is_dir()]
    except OSError:
        return []


def _write(path: Path, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _flat(path: Path) -> dict[str, int]:
    """Return a file of `name value` lines; nothing where there is no such file."""
    with contextlib.suppress(OSError, ValueError):
        return {name: int(value) for name, value in map(str.split, path.read_text().splitlines())}
    return {}
