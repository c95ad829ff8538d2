"""The announcement of what was committed, to any number of readers of any speed.

Publishing never waits: a reader that fell behind is cut off with a gap mark and goes on from there (it
fetches the gap from the journal if it cares). The store publishes; the API's streams and the mirror
subscribe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from orchestrator.core.events import Recorded


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that a slow reader was not given; both ends included."""

    from_seq: int
    to_seq: int


class Subscription:
    """One reader's place: what was committed since, up to its capacity."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: deque[Recorded | Gap] = deque()
        self._readers = trio.lowlevel.ParkingLot()

    def offer_nowait(self, recorded: Recorded) -> None:
        """Append the event, or widen the gap at the end while there is no room."""
        waiting = self._waiting
        if len(waiting) < self._capacity:
            waiting.append(recorded)
        elif isinstance(last := waiting[-1], Gap):
            waiting[-1] = Gap(last.from_seq, recorded.seq)
        else:
            waiting.append(Gap(recorded.seq, recorded.seq))
        if self._readers:
            self._readers.unpark()

    async def receive(self) -> Recorded | Gap:
        """Return the next event or gap, in order."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._waiting:
            await self._readers.park()
        found = self._waiting.popleft()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return found

    def receive_nowait(self, limit: int = 100) -> list[Recorded | Gap]:
        """Return up to `limit` of what already waits, possibly nothing."""
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]


class Bus:
    """The readers of what was committed."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    @contextmanager
    def subscribe(self, *, capacity: int = 1024) -> Iterator[Subscription]:
        """Own a place that gets every event committed from now on."""
        subscription = Subscription(capacity)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def publish(self, events: Iterable[Recorded]) -> None:
        """Offer the events to every reader; never waits."""
        if self._subscriptions:
            for recorded in events:
                for subscription in self._subscriptions:
                    subscription.offer_nowait(recorded)
