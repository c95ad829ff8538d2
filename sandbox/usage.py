"""What processes use now, read from /proc, for trees that no cgroup measures.

The invariant: a process that has just ended counts for nothing and breaks nothing. Callers:
`sandbox.confined`, `sandbox.process` and `sandbox.watch`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sandbox.base import Usage

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


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
