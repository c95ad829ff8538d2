"""The time of a tree: deadlines that its owner may stop, so that what stands still loses none of its time.

The contract is `Clock`, which every backend carries; `RunningClock` is the one that never stops. Whoever
freezes trees gives them a `StoppableClock`. Callers: the backends, `orchestrator.supervise` (stops it), and
all who give what runs in a sandbox a deadline.
"""

from __future__ import annotations

import math
from typing import Protocol
from weakref import WeakKeyDictionary

import trio


class Clock(Protocol):
    """Measures how long a tree was let run."""

    def now(self) -> float:
        """Return the clock's time in seconds; only differences mean anything."""
        ...

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        """Return a scope that is cancelled once the clock has gone on by so much; to be entered at once."""
        ...


class RunningClock:
    """The clock of what is never frozen."""

    def now(self) -> float:
        """Return Trio's own time."""
        return trio.current_time()

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        """See `Clock`."""
        return trio.CancelScope(deadline=trio.current_time() + seconds)


class StoppableClock:
    """A clock that its owner stops and lets go on; its deadlines stand still with it."""

    def __init__(self) -> None:
        self._stopped_at: float | None = None
        #: How long it stood still, all in all.
        self._lost_s = 0.0
        #: The deadlines that somebody still holds, each in this clock's time.
        self._ends: WeakKeyDictionary[trio.CancelScope, float] = WeakKeyDictionary()

    def now(self) -> float:
        """See `Clock`."""
        return (trio.current_time() if self._stopped_at is None else self._stopped_at) - self._lost_s

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        """See `Clock`."""
        end = self.now() + seconds
        scope = trio.CancelScope(deadline=self._deadline(end))
        self._ends[scope] = end
        return scope

    def stop(self) -> None:
        """Stand still; a deadline that has passed and that nobody was told of yet waits as well."""
        if self._stopped_at is None:
            self._stopped_at = trio.current_time()
            self._set_deadlines()

    def go_on(self) -> None:
        """Go on where it stood."""
        if self._stopped_at is not None:
            self._lost_s += trio.current_time() - self._stopped_at
            self._stopped_at = None
            self._set_deadlines()

    def _set_deadlines(self) -> None:
        for scope, end in self._ends.items():
            scope.deadline = self._deadline(end)

    def _deadline(self, end: float) -> float:
        return end + self._lost_s if self._stopped_at is None else math.inf
