"""Holds back the agents of a repository that fail one after the other for a reason of the host or the remote.

Invariant: what is held is only held back, never failed, and a success ends the hold at once; what is kept is
bounded, and forgotten at a restart. Told of every end by `finish`, asked by the dispatcher.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime

from orchestrator.core.intensity import HOLD_CEILING, INFRASTRUCTURE, held_until
from orchestrator.core.model import Reason

#: Failures that are remembered of each reason, and repositories.
MAX_KEPT = 40
MAX_REPOSITORIES = 1000


class Breaker:
    """What went wrong of late, by repository."""

    def __init__(self) -> None:
        self._failures: dict[str, dict[Reason, deque[datetime]]] = {}
        #: Until when each repository is held back, that is or was.
        self._holds: dict[str, datetime] = {}

    def failed(self, repository: str, reason: Reason, now: datetime) -> str | None:
        """Take note of a failure; return what to tell where it is the one that begins a hold."""
        if reason not in INFRASTRUCTURE:
            return None
        reasons = self._failures.pop(repository, {})
        times = reasons.setdefault(reason, deque(maxlen=MAX_KEPT))
        times.append(now)
        self._failures[repository] = reasons  # the latest to fail goes last
        if len(self._failures) > MAX_REPOSITORIES:
            self.succeeded(next(iter(self._failures)))
        until = held_until(times)
        if until is None:
            return None
        told = repository in self._holds
        self._holds[repository] = until
        if told:
            return None
        return f"{repository}: {len(times)} agents failed with {reason}; the others wait for a while"

    def succeeded(self, repository: str) -> bool:
        """Forget the failures of a repository; return whether they had led to a hold."""
        self._failures.pop(repository, None)
        return self._holds.pop(repository, None) is not None

    def holds(self, repository: str, now: datetime) -> bool:
        """Return whether the agents of a repository are held back now."""
        end = self._holds.get(repository)
        # A clock that was set back must not hold anybody for longer than the longest hold.
        return end is not None and now < end <= now + HOLD_CEILING

    def next_end(self, now: datetime) -> datetime | None:
        """Return when the first hold ends."""
        return min((end for end in self._holds.values() if end > now), default=None)
