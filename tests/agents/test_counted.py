"""What a program tells of its tools is counted, and fills no journal."""

from __future__ import annotations

from orchestrator.agents.counted import FREE_COUNTS, CountedMeter
from orchestrator.core import events as e
from tests.kit.plain_meter import PlainMeter

IDS = {"task_id": "T-1", "agent_id": "agent-1"}


async def test_tool_calls_without_end_are_all_counted_and_few_events(autojump_clock: object) -> None:
    events: list[e.Event] = []

    async def record(*facts: e.Event) -> None:
        events.extend(facts)

    tally = CountedMeter(PlainMeter(IDS, record))
    for _ in range(FREE_COUNTS):
        await tally.count_tools(1)
    assert len(events) == FREE_COUNTS, "of those that there are in real work, each is there at once"
    for _ in range(50_000):
        await tally.count_tools(2)
    await tally.settle()
    await tally.settle()
    assert len(events) <= FREE_COUNTS + 2
    counted = sum(event.usage.tool_calls for event in events if isinstance(event, e.AgentUsage))
    assert counted == FREE_COUNTS + 100_000
