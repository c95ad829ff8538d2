"""The waiting line agrees with a sort of the queued agents, whatever happens to them and to the clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import hypothesis
import hypothesis.strategies as st

from orchestrator.core.model import Agent, AgentId, AgentStatus, Phase, TaskId
from orchestrator.core.policy import is_due, order_key
from orchestrator.core.spec import Role
from orchestrator.journal.line import WaitingLine

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def agent(number: int, priority: int, delay_s: int | None) -> Agent:
    return Agent(
        id=AgentId(f"a{number}"),
        task_id=TaskId(f"t{number}"),
        attempt=1,
        role=Role.WORKER,
        runtime="command",
        priority=priority,
        spawned_at=NOW,
        queued_seq=number + 1,
        not_before=None if delay_s is None else NOW + timedelta(seconds=delay_s),
    )


changes = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.integers(1, 3),
        st.none() | st.integers(-3, 5),
        st.sampled_from(["queue", "assign", "end", "gone"]),
        st.integers(-2, 6) | st.just(-1000),  # far back: the clock was set
    ),
    max_size=60,
)


@hypothesis.given(changes)
def test_line_agrees_with_a_sort(steps: list[tuple[int, int, int | None, str, int]]) -> None:
    line, present = WaitingLine(), dict[AgentId, Agent]()
    for number, priority, delay_s, what, clock_s in steps:
        one = agent(number, priority, delay_s)
        if what == "queue":
            present[one.id] = one
            line.update(one.id, one)
        else:
            present.pop(one.id, None)
            gone = {
                "assign": replace(one, phase=Phase.PREPARING),
                "end": replace(one, status=AgentStatus.KILLED),
                "gone": None,
            }
            line.update(one.id, gone[what])
        now = NOW + timedelta(seconds=clock_s)
        due = sorted((found for found in present.values() if is_due(found, now)), key=order_key)
        assert line.first_due(now) == (due[0].id if due else None)
        assert len(line) == len(present)
        assert sorted(filter(None, map(line.rank, present))) == list(range(1, len(present) + 1))
        if due:
            assert line.rank(due[0].id) == 1
        later = [
            found.not_before for found in present.values() if found.not_before and not is_due(found, now)
        ]
        if not due:
            assert line.next_due() == min(later, default=None)
    assert line.rank(AgentId("nobody")) is None
