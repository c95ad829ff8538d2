"""What an agent's processes use now: watched figures, shown beside the enforced limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from sandbox.base import Usage

#: Seconds for which one look at an agent's processes answers all who ask.
FRESH_S = 0.25


@dataclass(slots=True)
class Gauge:
    """One agent's figures, read at most once each `FRESH_S`, however many clients ask."""

    _read_at: float = -math.inf
    _last: Usage = field(default_factory=Usage)

    def read(self, look: Callable[[], Usage], now_s: float) -> Usage:
        """Return the figures, as they were at most `FRESH_S` ago by the monotonic clock."""
        if now_s - self._read_at >= FRESH_S:
            self._last, self._read_at = look(), now_s
        return self._last
