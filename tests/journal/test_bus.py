"""The bus: every reader gets what was committed, in order; a slow one gets a gap mark and goes on."""

from __future__ import annotations

from datetime import UTC, datetime

import trio
import trio.testing

from orchestrator.core.events import QueuePaused, Recorded
from orchestrator.journal.bus import KEPT_CHARACTERS, Bus, Gap


def event(seq: int) -> Recorded:
    return Recorded(seq, str(seq), datetime(2026, 1, 1, tzinfo=UTC), QueuePaused(), "")


def test_a_slow_reader_gets_a_gap_and_goes_on() -> None:
    bus = Bus(kept=3)
    assert bus.after(0) == []
    for seq in range(1, 7):
        bus.publish([event(seq)])
    assert bus.after(0) == [Gap(1, 3), event(4), event(5), event(6)]
    assert bus.after(2) == [Gap(3, 3), event(4), event(5), event(6)]
    assert bus.after(3) == [event(4), event(5), event(6)]
    assert bus.after(6) == []


def test_a_large_commit_is_no_gap_and_large_events_are_not_kept_for_long() -> None:
    bus = Bus(10, kept=3)
    bus.publish([event(seq) for seq in range(11, 31)], KEPT_CHARACTERS)
    assert bus.after(10) == [event(seq) for seq in range(11, 31)]
    bus.publish([event(31)], 1)
    assert bus.after(10) == [Gap(11, 30), event(31)]


async def test_readers_wait_without_holding_anybody_up() -> None:
    bus, received = Bus(), list[Recorded | Gap]()

    async def read() -> None:
        await bus.wait_past(0)
        received.extend(bus.after(0))

    async with trio.open_nursery() as children:
        children.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        bus.publish([event(1)])
        bus.publish([event(2)])
    assert received == [event(1), event(2)]
