"""Cgroups of our own (v2): one leaf a sandbox, to kill, freeze, limit and measure a whole tree at the kernel.

    <our cgroup, delegated to us>/orchestrator-<instance>/trees/<label>.<random>    one live sandbox
                                                         /supervisor               us, where we had to move

The invariant: a process is in its leaf before it runs anything of an agent's, and cannot leave it; so
`populated 0` proves that nothing of it is left. A leaf's name says whose it is: what a crash left is found by
it alone, and another instance's is never touched. Nothing is written outside a cgroup that is ours
(`sandbox.delegation`). Callers: the backends, which open leaves; who owns the instance, to reap.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import trio

from sandbox.base import MIB, Limits, SandboxLaunchFailed, Spec
from sandbox.delegation import CgroupsUnavailable
from sandbox.leaf import Leaf, write

#: What is limited by cgroups, where the kernel lets us: controller, and the field of `Limits` that it keeps.
CONTROLLERS: Mapping[str, str] = {"memory": "memory_mb", "cpu": "cpus", "pids": "pids"}
_PERIOD_US = 100_000
_INSTANCE = re.compile(r"[a-z0-9-]{1,40}")
_PREFIX = "orchestrator-"


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
        write(leaf / "cgroup.procs", "0")

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
                    write(leaf.path / file, value)
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
        write(level / "cgroup.subtree_control", f"+{controller}")


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
