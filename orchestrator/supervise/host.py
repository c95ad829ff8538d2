"""Looks after the host's room: disk, memory and process numbers; too little of one stops the admission.

What it finds is journaled as `system.degraded` and `system.recovered`, and the state machine holds the queue
by it, so that whoever assigns needs to know nothing of it. Started by `assembly`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import trio

from orchestrator.core import events as e
from orchestrator.core.watermark import WATERMARKS, describe, shortages
from orchestrator.journal.store import Store
from sandbox.leaf import held_bytes

#: Seconds between two looks.
LOOK_EVERY_S = 2.0
_MIB = 1024 * 1024
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


async def watch_host(
    store: Store, look: Callable[[], Mapping[str, float]], *, every_s: float = LOOK_EVERY_S
) -> None:
    """Compare what is left with the watermarks, again and again, and journal each change."""
    while True:
        await compare(store, look())
        await trio.sleep(every_s)


async def compare(store: Store, left: Mapping[str, float]) -> None:
    """Journal what has become short since the last look, and what no longer is."""
    before = store.state.control.short & WATERMARKS.keys()
    now = shortages(left, before)
    facts: list[e.Event] = [
        *(e.SystemDegraded(part=part, detail=describe(part, left)) for part in sorted(now - before)),
        # Where room is kept for ends, what comes and goes is journaled once.
        *(e.SystemRecovered(part=part) for part in sorted(before - now) if not store.room.scarce),
    ]
    if facts:
        await store.record(*facts)


def look_around(directories: Iterable[Path], cgroups: Iterable[Path] | None = None) -> dict[str, float]:
    """Return what is left: the least of the given directories' disks, MB of memory, process numbers.

    What cannot be measured now (a disk that went, no descriptor left to read with) is missing in it. The
    `cgroups` (version 2) that bound this process are found where they are not given.
    """
    left: dict[str, float] = {}

    def take(part: str, figure: float) -> None:
        left[part] = min(left.get(part, figure), figure)

    for directory in directories:
        with contextlib.suppress(OSError):
            disk = os.statvfs(directory)
            take("disk", disk.f_bavail * disk.f_frsize / _MIB)
            if disk.f_files:  # some file systems have no such limit
                take("inodes", disk.f_favail)
    with contextlib.suppress(OSError, ValueError):
        take("memory", _available_memory() / _MIB)
    with contextlib.suppress(OSError, ValueError):
        take("pids", _free_pids())
    for cgroup in _own_cgroups() if cgroups is None else cgroups:
        # No such controller here, or no limit ("max").
        with contextlib.suppress(OSError, ValueError):
            take("memory", _free_memory(cgroup) / _MIB)
        with contextlib.suppress(OSError, ValueError):
            take("pids", _read_figure(cgroup / "pids.max") - _read_figure(cgroup / "pids.current"))
    return left


def _free_memory(cgroup: Path) -> int:
    """Return what a cgroup may still take; files that it only keeps in memory would make room for it."""
    return _read_figure(cgroup / "memory.max") - held_bytes(cgroup)


def _read_figure(path: Path) -> int:
    return int(path.read_text())


def _available_memory() -> int:
    for line in (_PROC / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo does not tell MemAvailable")


def _free_pids() -> int:
    used = int((_PROC / "loadavg").read_text().split()[3].partition("/")[2])
    ceilings = (_PROC / "sys/kernel" / name for name in ("pid_max", "threads-max"))
    return min(int(ceiling.read_text()) for ceiling in ceilings) - used


def _own_cgroups() -> list[Path]:
    """Return the version 2 cgroup that this process lives in, and those around it, which bound it as well.

    The service's own is one of these: the process may have moved into a leaf of it (`sandbox.cgroup`).
    """
    with contextlib.suppress(OSError):
        for line in (_PROC / "self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                own = _CGROUPS / line.removeprefix("0::").strip("/")
                return [own, *(path for path in own.parents if path.is_relative_to(_CGROUPS))]
    return [_CGROUPS]
