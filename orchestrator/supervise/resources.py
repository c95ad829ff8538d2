"""What an agent's processes use now, read from /proc: watched figures, shown beside the enforced limits."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: Seconds for which one look at an agent's processes answers all who ask.
FRESH_S = 0.25


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


@dataclass(slots=True)
class Gauge:
    """One agent's figures, read at most once each `FRESH_S`, however many clients ask."""

    _read_at: float = -math.inf
    _last: Resources = Resources()

    def read(self, processes: Callable[[], Iterable[int]], now_s: float) -> Resources:
        """Return the figures, as they were at most `FRESH_S` ago by the monotonic clock."""
        if now_s - self._read_at >= FRESH_S:
            self._last, self._read_at = measure(processes()), now_s
        return self._last
