"""The mirror: follows the journal, writes in one thread, and makes everything anew when it has to.

The invariants: nobody waits for it, and while Valkey is away it remembers only how far it had come. Events
are published in the journal's order, from the bus or, where that did not bring them, from the journal; what
was missed by more than `MOST_MISSED` is told as a gap. After every connect, and so when the marker was not as
it was left (somebody flushed the database, or wrote there), everything is written anew: first all that should
be there, then what should not be is removed: no reader ever sees less than there is. Run by `assembly`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import NoReturn

import trio

from orchestrator.core import events as e
from orchestrator.core.mirror import MirrorCompared, MirrorUnavailable
from orchestrator.errors import JournalError
from orchestrator.journal.store import Store
from orchestrator.mirror import writing
from orchestrator.mirror.address import Address
from orchestrator.mirror.audit import Audit
from orchestrator.mirror.link import Link
from orchestrator.mirror.source import Source
from orchestrator.mirror.thread import MirrorThread
from orchestrator.mirror.trouble import MirrorTrouble
from orchestrator.mirror.view import touched
from orchestrator.mirror.wholesale import Wholesale
from orchestrator.mirror.writing import Marker

log = logging.getLogger(__name__)

PART = "valkey"
#: Between two tries for what may be over at any moment, and for what somebody has to put right.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
#: How often a quiet Valkey is asked whether it still has what it had.
BEAT_S = 0.5
#: Between two writes: a burst is written together, and the journal keeps the processor.
GATHER_S = 0.05
#: Events that are taken from the bus, or from the journal, at once.
BATCH = 500
#: Events older than this many are not published any more.
MOST_MISSED = 10_000
#: A Valkey that comes and goes is journaled this often at most.
STEADY_S = 5.0


def pause_s(failures: int, *, passing: bool) -> float:
    """Return the seconds until the next try, after so many failures in a row."""
    first, longest = (FIRST_PAUSE_S, LONGEST_PAUSE_S) if passing else (FIRST_WAIT_S, LONGEST_WAIT_S)
    return min(longest, first * 2.0 ** min(failures - 1, 10))


class ValkeyMirror:
    """The copy in one Valkey; without an address there is none."""

    def __init__(self, store: Store, address: Address | None, clock: Callable[[], datetime]) -> None:
        #: For the readiness check.
        self.condition = "off" if address is None else "degraded: not connected yet"
        self._store, self._address, self._source = store, address, Source(store, clock)
        self._thread = MirrorThread()
        #: Held by whoever writes.
        self._writing = trio.Lock()
        #: While all is well.
        self._link: Link | None = None
        #: The last event that was published.
        self._marker = Marker("", store.state.seq)
        #: The last event that was there when all was made anew.
        self._built = store.state.seq
        self._moved = trio.lowlevel.ParkingLot()
        self._known = self._announced = False
        self._well_since = self._announced_at = -math.inf

    async def run(self) -> None:
        """Mirror until cancelled."""
        if self._address is None:
            return
        first = (await self._store.events_after(0, limit=1))[0]
        self._marker = replace(self._marker, journal=first.id)
        failures = 0
        while True:
            trouble = await self._serve(self._address)
            steady = self._link is not None and trio.current_time() - self._well_since >= STEADY_S
            failures = 1 if steady else failures + 1
            self._link = None
            self._moved.unpark_all()
            if (condition := f"degraded: {trouble.detail}") != self.condition:
                log.warning("the mirror in Valkey stands still", extra={"why": trouble.detail})
                self.condition = condition
            await self._announce(trouble.detail)
            await trio.sleep(pause_s(failures, passing=trouble.passing))

    async def compare(self, repair: bool) -> MirrorCompared:
        """Compare Valkey with the journal, and put right what differs; raises `MirrorUnavailable`."""
        if self._link is None:
            raise MirrorUnavailable
        whole = Wholesale(self._link, self._source, self._thread)
        audit = Audit(whole, self._writing, self._caught_up, lambda: self._store.state)
        try:
            return await audit.compare(self._marker, repair=repair)
        except MirrorTrouble as trouble:
            raise MirrorUnavailable(trouble.detail) from None

    async def _serve(self, address: Address) -> MirrorTrouble:
        """Connect, make everything anew, and follow; return what put an end to it."""
        try:
            link = await self._thread.open(address)
        except MirrorTrouble as trouble:
            return trouble
        try:
            await self._take_up(link)
            async with self._writing:
                state = self._store.state
                await Wholesale(link, self._source, self._thread).make_anew(state, self._marker)
                self._built = state.seq
            self._link, self.condition = link, "ok"
            self._well_since = trio.current_time()
            log.info("the mirror in Valkey is whole", extra={"valkey": str(address)})
            await self._announce(None)
            await self._follow(link)
        except MirrorTrouble as trouble:
            return trouble
        finally:
            link.close()

    async def _take_up(self, link: Link) -> None:
        """Become the writer, and learn what was published: whether an answer was lost, only Valkey knows."""
        published = await self._thread.call(writing.claim, link, self._marker.journal)
        if published is not None:
            seq = max(published, self._marker.seq) if self._known else published
            self._marker = replace(self._marker, seq=min(seq, self._store.state.seq))
        self._known = True

    async def _follow(self, link: Link) -> NoReturn:
        """Write what comes, until something is wrong."""
        while True:
            batch = await self._batch()
            async with self._writing:
                whole = await self._write(link, batch)
            self._moved.unpark_all()
            if not whole:
                raise MirrorTrouble("it lost the mirror, or others wrote there: made anew", passing=True)
            if batch:
                await trio.sleep(GATHER_S)

    async def _batch(self) -> list[e.Recorded]:
        """Return the next events, none where it is time for a sign of life."""
        bus, seq = self._store.bus, self._marker.seq
        if seq >= bus.tail:
            with trio.move_on_after(BEAT_S):
                await bus.wait_past(seq)
        if seq < bus.tail:
            return await self._store.events_after(seq, limit=BATCH)
        return [each for each in bus.after(seq)[:BATCH] if isinstance(each, e.Recorded)]

    async def _write(self, link: Link, batch: list[e.Recorded]) -> bool:
        """Write what the events changed, and publish them; return whether all was there before."""
        if not batch:
            return await self._thread.call(writing.beat, link, self._marker)
        whole, missed = True, max(batch[0].seq - 1, self._store.state.seq - MOST_MISSED)
        if missed > self._marker.seq:
            self._marker = await self._thread.call(writing.publish_gap, link, self._marker, missed)
            batch = [recorded for recorded in batch if recorded.seq > missed]
            whole = missed <= self._built  # else nobody knows what these changed
        who = touched(recorded for recorded in batch if recorded.seq > self._built)
        if any(who):
            entries, places = await self._source.of(who)
            whole = (
                await self._thread.call(writing.write_entries, link, self._marker, entries, places) and whole
            )
        if batch:
            whole = await self._thread.call(writing.publish, link, self._marker, batch) and whole
            self._marker = replace(self._marker, seq=batch[-1].seq)
        return whole

    async def _caught_up(self) -> bool:
        """Wait until all that is committed now is written; return whether nothing came meanwhile."""
        seq = self._store.state.seq
        while self._marker.seq < seq:
            if self._link is None:
                raise MirrorUnavailable
            await self._moved.park()
        await trio.lowlevel.checkpoint()
        return self._marker.seq == self._store.state.seq

    async def _announce(self, trouble: str | None) -> None:
        """Journal that the mirror stands still, or that it no longer does, but not each time of many."""
        now, away = trio.current_time(), trouble is not None
        often = away and now - self._announced_at < STEADY_S
        if self._announced == away or often or self._store.room.scarce:
            return
        fact = e.SystemDegraded(part=PART, detail=trouble) if trouble else e.SystemRecovered(part=PART)
        with suppress(JournalError):  # it is being closed
            await self._store.record(fact)
            self._announced, self._announced_at = away, now
