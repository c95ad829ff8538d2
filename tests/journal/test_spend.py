"""What was spent is a fold of the journal: by day, whatever the clock does, and by task over its attempts."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import hypothesis.strategies as st
from hypothesis import given

from orchestrator.core import events as e
from orchestrator.core.commands import FailAgent
from orchestrator.core.model import AgentId, Reason, Spend, TaskId, Usage
from orchestrator.journal.store import Store
from tests.journal.rig import running_store, submission, work
from tests.kit.refold import refold, tables

MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
DIME = Usage(input_tokens=10, output_tokens=5, cost_usd=0.1, cache_write_tokens=2, cache_write_1h_tokens=1)


class Calendar:
    """A wall clock that the test sets."""

    def __init__(self) -> None:
        self.now = MIDNIGHT - timedelta(seconds=1)

    def __call__(self) -> datetime:
        return self.now


async def spend(store: Store, ids: dict[str, Any]) -> None:
    turn = e.AgentTurn(**ids, turn=1, stop_reason="end_turn", duration_ms=1, prompt=1)
    await store.record(turn, e.AgentUsage(**ids, usage=DIME))


async def test_a_day_ends_at_midnight_and_none_comes_again(tmp_path: Path) -> None:
    calendar = Calendar()
    async with running_store(tmp_path, clock=calendar) as store:
        ids = await work(store, "t", "a")
        await spend(store, ids)
        calendar.now = MIDNIGHT
        await spend(store, ids)
        await spend(store, ids)
        calendar.now = MIDNIGHT - timedelta(days=3)
        await spend(store, ids)
        before = store.state
        events = await store.events_after(0)
    assert before.spend.day == MIDNIGHT.date()
    assert before.spend.latest == DIME.plus(DIME).plus(DIME).plus(Usage(turns=3))
    assert before.spend.total.turns == 4
    assert before.spend.on(date(2026, 3, 3)) == Usage()
    async with running_store(tmp_path, clock=calendar) as store:
        assert store.state == before
    refold(events, tmp_path / "again.db", random.Random(1))
    assert tables(tmp_path / "again.db") == tables(tmp_path / "orchestrator.db")


async def test_what_an_agent_only_claims_to_have_spent_uses_up_nobody_elses_budget(tmp_path: Path) -> None:
    fortune = Usage(input_tokens=10**12, cost_usd=1e12)
    async with running_store(tmp_path) as store:
        ids = await work(store, "t", "a")
        await store.record(e.AgentUsage(**ids, usage=fortune, claimed=True))
        assert store.state.agents[AgentId("a")].usage == fortune
        assert store.state.tasks[TaskId("t")].spent == fortune
        assert store.state.spend.total == Usage()
        before, events = store.state, await store.events_after(0)
    async with running_store(tmp_path) as store:
        assert store.state.spend == before.spend
    refold(events, tmp_path / "again.db", random.Random(1))
    assert tables(tmp_path / "again.db") == tables(tmp_path / "orchestrator.db")


async def test_a_task_has_spent_what_its_attempts_did_and_begins_anew_when_submitted_again(
    tmp_path: Path,
) -> None:
    async with running_store(tmp_path) as store:
        ids = await work(store, "t", "a")
        await spend(store, ids)
        failed = FailAgent(
            AgentId("a"), Reason.AGENT_ERROR, "bad", retryable=True, next_agent_id=AgentId("b"),
            retry_at=datetime.now(UTC),
        )  # fmt: skip
        await store.submit(failed)
        assert store.state.tasks[TaskId("t")].spent == DIME.plus(Usage(turns=1))
    async with running_store(tmp_path) as store:
        assert store.state.tasks[TaskId("t")].spent == DIME.plus(Usage(turns=1))
        await store.record(e.TaskAssigned(task_id=TaskId("t"), agent_id=AgentId("b")))
        await spend(store, {"task_id": TaskId("t"), "agent_id": AgentId("b")})
        assert store.state.tasks[TaskId("t")].spent == DIME.plus(DIME).plus(Usage(turns=2))
        await store.submit(
            FailAgent(AgentId("b"), Reason.AGENT_ERROR, "bad", False, AgentId("c"), datetime.now(UTC))
        )
        await store.submit(submission("t", "d"))
        assert store.state.tasks[TaskId("t")].spent == Usage()


async def test_a_journal_of_before_counts_the_turns_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "orchestrator.db"
    async with running_store(tmp_path) as store:
        for number in range(3):
            ids = await work(store, f"t{number}", f"a{number}")
            for turn in range(number):
                await store.record(e.AgentTurn(**ids, turn=turn + 1, stop_reason="exit", duration_ms=1))
    whole = tables(path)
    connection = apsw.Connection(str(path))
    connection.execute(
        "DROP TABLE spend; ALTER TABLE tasks DROP COLUMN spent;"
        " DELETE FROM _sqlite_migrations WHERE name = '0003_spend.sql'"
    )
    connection.close()
    async with running_store(tmp_path) as store:
        assert store.state.tasks[TaskId("t2")].spent == Usage(turns=2)
    assert tables(path) == whole


@given(st.lists(st.tuples(st.integers(-3, 3), st.floats(0, 1)), max_size=30))
def test_days_added_up_again_are_the_same_to_the_last_bit(moves: list[tuple[int, float]]) -> None:
    spend, days, now = Spend(), dict[date | None, Usage](), MIDNIGHT
    for step, cost in moves:
        now += timedelta(days=step)
        spend = spend.plus(Usage(cost_usd=cost), now.date())
        days[spend.day] = spend.latest
    again = Spend()
    for day, usage in sorted(days.items(), key=lambda entry: str(entry[0])):
        assert day is not None
        again = again.plus(usage, day)
    assert again == spend
