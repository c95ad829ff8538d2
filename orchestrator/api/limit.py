"""Token buckets: how often one caller may knock.

Bounded in callers too: the one unseen for longest is forgotten, which can only help it. Called by the
door; kill and the other switches are never asked about.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

MAX_CALLERS = 10_000


class Buckets:
    """One bucket a caller, filled at a rate up to a burst."""

    def __init__(self, rate_per_s: float, burst: int, now: Callable[[], float]) -> None:
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._now = now
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, caller: str) -> float:
        """Return 0 where the caller's bucket holds a token, else the seconds until it will."""
        level = self._level(caller)
        return 0.0 if level >= 1.0 else (1.0 - level) / self._rate_per_s

    def take_nowait(self, caller: str) -> float:
        """Take one token and return 0, or return the seconds until there is one."""
        level = self._level(caller)
        if level < 1.0:
            return (1.0 - level) / self._rate_per_s
        self._levels[caller] = (level - 1.0, self._now())
        self._levels.move_to_end(caller)
        if len(self._levels) > MAX_CALLERS:
            self._levels.popitem(last=False)
        return 0.0

    def _level(self, caller: str) -> float:
        level, seen = self._levels.get(caller, (self._burst, self._now()))
        return min(self._burst, level + (self._now() - seen) * self._rate_per_s)
