"""What processes use now, read from /proc, for trees that no cgroup measures.

The invariant: a process that has just ended counts for nothing and breaks nothing. Callers:
`sandbox.confined`, `sandbox.process` and `sandbox.watch`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from sandbox.base import HOME, Usage
from sandbox.procfs import Stat, same

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: Where a sandbox has file systems in memory.
IN_MEMORY = ("/tmp", "/dev/shm", HOME)  # noqa: S108
#: What the kernel needs for a file beside what is in it.
_FILE_BYTES = 1024
#: How many processes are asked: the first, which holds a sandbox together, sees what all others see.
_ASKED = 4


def measure(pids: Iterable[int]) -> Usage:
    """Return the sum over the given processes and over those of their children that they waited for."""
    memory = ticks = count = 0
    for pid in pids:
        fields = _fields(pid)
        if not fields:
            continue
        ticks += sum(map(int, fields[11:15]))
        memory += int(fields[21]) * PAGE_BYTES
        count += 1
    return Usage(memory, round(ticks / TICKS_PER_S, 2), count)


def measure_with_files(inside: Sequence[Stat]) -> Usage:
    """Return the same with what is in the sandbox's own files in memory; its first processes come first."""
    used, in_files = measure(stat.pid for stat in inside), held_in_files(inside)
    return replace(used, memory_bytes=used.memory_bytes + in_files, in_files_bytes=in_files)


def held_in_files(inside: Iterable[Stat]) -> int:
    """Return the memory of the files in file systems of a sandbox's own, as its first processes see them."""
    for stat in islice(inside, _ASKED):
        held = [_held(f"/proc/{stat.pid}/root{place}", place) for place in IN_MEMORY]
        if any(held) and same(stat):
            return sum(held)
    return 0


def _held(seen: str, place: str) -> int:
    """Return what is in a file system; nothing where it is the host's own at that place."""
    with contextlib.suppress(OSError):  # there is none, or the process is gone
        if _device(seen) != _device(place):
            held = os.statvfs(seen)
            files = held.f_files - held.f_ffree
            return (held.f_blocks - held.f_bfree) * held.f_frsize + files * _FILE_BYTES
    return 0


def _device(path: str) -> int | None:
    try:
        return Path(path).stat().st_dev
    except FileNotFoundError:
        return None


def resident_bytes(pid: int) -> int:
    """Return the memory of one process, shared pages included."""
    fields = _fields(pid)
    return int(fields[21]) * PAGE_BYTES if fields else 0


def _fields(pid: int) -> list[bytes]:
    """Return what follows the name in /proc/PID/stat; nothing of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []
