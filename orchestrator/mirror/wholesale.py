"""Everything at once: the whole mirror made anew, and whatever stands in Valkey that should not.

The invariant: what should be there is written before what should not be is removed, and the queue is put in
place whole, so that no reader sees a half. Called by `valkey` and `audit`, who see to it that nobody else
writes meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.model import State
from orchestrator.mirror import writing
from orchestrator.mirror.link import Link
from orchestrator.mirror.source import Source
from orchestrator.mirror.thread import MirrorThread
from orchestrator.mirror.trouble import nonsense
from orchestrator.mirror.view import AGENT, TASK, Place
from orchestrator.mirror.writing import Marker

#: Steps of a scan after which its end is no longer believed in.
MOST_STEPS = 100_000
#: Places of the queue that are written by one call.
PLACES = 5000


@dataclass(frozen=True, slots=True)
class Wholesale:
    """A link, and what should be behind it."""

    link: Link
    source: Source
    thread: MirrorThread

    async def make_anew(self, state: State, marker: Marker) -> None:
        """Write everything there is in this state or later, then remove what should not be there."""
        walk = self.source.walk(state)
        while (page := await walk.next()) is not None:
            entries, _ = await self.source.of(page)
            await self.thread.call(writing.write_entries, self.link, marker, entries)
        await self.replace_queue(self.source.queue(state))
        for prefix in (TASK, AGENT):
            scan = Scan(self, prefix)
            while (keys := await scan.next()) is not None:
                await self.thread.call(writing.remove, self.link, keys)
        await self.thread.call(writing.beat, self.link, marker)

    async def replace_queue(self, places: Sequence[Place]) -> None:
        """Put a new queue in the place of the old one, whatever that was."""
        await self.thread.call(writing.begin_queue, self.link)
        for start in range(0, len(places), PLACES):
            part = places[start : start + PLACES]
            await self.thread.call(writing.extend_queue, self.link, part)
        await self.thread.call(writing.adopt_queue, self.link, bool(places))


class Scan:
    """The keys that begin so and should not be there, page by page."""

    def __init__(self, wholesale: Wholesale, prefix: str) -> None:
        self._wholesale, self._prefix = wholesale, prefix
        self._cursor: int | None = 0
        self._steps = 0

    async def next(self) -> list[str] | None:
        """Return the next page, or None at the end."""
        if self._cursor is None:
            return None
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise nonsense("its SCAN has no end")
        whole = self._wholesale
        cursor, keys = await whole.thread.call(writing.scan, whole.link, self._cursor, self._prefix)
        self._cursor = cursor or None
        return await whole.source.stale(self._prefix, keys)
