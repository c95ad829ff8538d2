"""The bus: every reader gets what was committed, in order; a slow one gets a gap mark and goes on."""

from __future__ import annotations

from datetime import UTC, datetime

import trio
import trio.testing

from orchestrator.core.events import QueuePaused, Recorded
from orchestrator.journal.bus import Bus, Gap


def event(seq: int) -> Recorded:
    return Recorded(seq, str(seq), datetime(2026, 1, 1, tzinfo=UTC), QueuePaused(), "")


async def test_a_slow_reader_gets_a_gap_and_goes_on() -> None:
    bus = Bus()
    with bus.subscribe(capacity=3) as slow, bus.subscribe() as fast:
        bus.publish(event(seq) for seq in range(1, 7))
        assert [await slow.receive() for _ in range(2)] == [event(1), event(2)]
        bus.publish([event(7), event(8)])
        assert slow.receive_nowait() == [event(3), Gap(4, 6), event(7), Gap(8, 8)]
        bus.publish([event(9)])
        assert await slow.receive() == event(9)
        assert fast.receive_nowait() == [event(seq) for seq in range(1, 10)]


async def test_readers_wait_without_holding_anybody_up() -> None:
    bus, received = Bus(), list[Recorded | Gap]()

    async with trio.open_nursery() as children:
        with bus.subscribe() as subscription:

            async def read() -> None:
                received.append(await subscription.receive())

            children.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            bus.publish([event(1)])
            await trio.testing.wait_all_tasks_blocked()
        bus.publish([event(2)])
    assert received == [event(1)]
    assert subscription.receive_nowait() == []
