"""What an agent's processes use now, read from /proc: watched figures, shown beside the enforced limits."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Resources:
    """Figures of one moment; a page that processes share counts in each."""

    memory_bytes: int = 0
    cpu_seconds: float = 0.0
    processes: int = 0


def measure(pids: Iterable[int]) -> Resources:
    """Return the sum over the given processes; one that has just ended counts for nothing."""
    memory = ticks = count = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
        memory += int(fields[21]) * PAGE_BYTES
        count += 1
    return Resources(memory, round(ticks / TICKS_PER_S, 2), count)
