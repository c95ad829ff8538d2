"""The announcement of what was committed, to any number of readers of any speed.

Publishing never waits, and what is kept is kept once for all readers: the newest events, within two ceilings.
A reader is a number, the place that it has read up to, so one that is slow or dead costs nothing to anybody;
one that has fallen behind what is kept gets a gap (it fetches that from the journal if it cares). The store
publishes; the API's streams read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from orchestrator.core.events import Recorded

#: What is kept of the newest events: more than the largest group of one commit, so that none makes a gap.
KEPT_EVENTS = 4096
KEPT_CHARACTERS = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that a slow reader was not given; both ends included."""

    from_seq: int
    to_seq: int


class Bus:
    """The newest of what was committed, and who waits for more."""

    def __init__(self, head: int = 0, *, kept: int = KEPT_EVENTS) -> None:
        self._ceiling = kept
        #: The last sequence number that was published.
        self.head = head
        self._kept: deque[Recorded] = deque()
        #: Of each publication that is kept, how many events and characters it has.
        self._groups: deque[tuple[int, int]] = deque()
        self._characters = 0
        self._readers = trio.lowlevel.ParkingLot()

    @property
    def tail(self) -> int:
        """The last sequence number that is kept no more."""
        return self.head - len(self._kept)

    def publish(self, events: Sequence[Recorded], characters: int = 0) -> None:
        """Let every reader have the next events, which take so many characters; never waits."""
        if not events:
            return
        self._kept.extend(events)
        self._groups.append((len(events), characters))
        self._characters += characters
        self.head = events[-1].seq
        # The newest group stays, however large: readers have not had the time to be slow.
        while len(self._groups) > 1 and (
            len(self._kept) > self._ceiling or self._characters > KEPT_CHARACTERS
        ):
            count, size = self._groups.popleft()
            self._characters -= size
            for _ in range(count):
                self._kept.popleft()
        self._readers.unpark_all()

    def after(self, seq: int) -> list[Recorded | Gap]:
        """Return what was published after the sequence number, beginning with a gap where it is not kept."""
        kept, tail = self._kept, self.tail
        # Readers are near the end, and a deque counts from there in no time.
        found: list[Recorded | Gap] = [kept[at] for at in range(max(seq, tail) - self.head, 0)]
        return found if seq >= tail else [Gap(seq + 1, tail), *found]

    async def wait_past(self, seq: int) -> None:
        """Wait until something after the sequence number was published."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self.head <= seq:
            await self._readers.park()
