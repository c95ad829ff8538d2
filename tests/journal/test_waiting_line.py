"""The waiting line agrees with a sort of the queued agents, whatever happens to them and to the clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import hypothesis
import hypothesis.strategies as st

from orchestrator.core.model import Agent, AgentId, AgentStatus, Phase, State, Task, TaskId, TaskStatus
from orchestrator.core.policy import (
    MAX_CRASHES,
    Standing,
    is_due,
    may_run_beside,
    order_key,
    standings_beside,
    worst_active,
)
from orchestrator.core.spec import Context, Role, TaskSpec
from orchestrator.journal.line import WaitingLine

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
REPOSITORIES = tuple(f"https://example.org/{name}.git" for name in "abc")


def agent(number: int, priority: int = 5, delay_s: int | None = None, crashes: int = 0) -> Agent:
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
        crashes=crashes,
    )


def put(state: State, one: Agent, repository: str) -> State:
    """Return the state with the agent, and its task."""
    spec = TaskSpec(task_id=one.task_id, context=Context(repository=repository))
    task = Task(one.task_id, spec, TaskStatus.PENDING, NOW, 1, one.id)
    return replace(state, agents=state.agents.set(one.id, one), tasks=state.tasks.set(task.id, task))


CHANGES: dict[str, Callable[[Agent], Agent]] = {
    "queue": lambda one: one,
    "assign": lambda one: replace(one, phase=Phase.PREPARING),
    "run": lambda one: replace(one, phase=Phase.WORKING),
    "end": lambda one: replace(one, status=AgentStatus.KILLED),
}

changes = st.lists(
    st.tuples(
        st.builds(
            agent,
            st.integers(0, 7),
            st.integers(1, 3),
            st.none() | st.integers(-3, 5),
            st.integers(0, MAX_CRASHES),
        ),
        st.sampled_from(REPOSITORIES),
        st.sampled_from([*CHANGES, "gone"]),
        st.integers(-2, 6) | st.just(-1000),  # far back: the clock was set
        st.frozensets(st.sampled_from(REPOSITORIES)),
    ),
    max_size=60,
)


@hypothesis.given(changes)
def test_line_agrees_with_a_sort(steps: list[tuple[Agent, str, str, int, frozenset[str]]]) -> None:
    state = State()
    line = WaitingLine(state)
    for one, repository, what, clock_s, held in steps:
        if what == "gone":
            agents = state.agents.delete(one.id) if one.id in state.agents else state.agents
            state = replace(state, agents=agents)
        else:
            state = put(state, CHANGES[what](one), repository)
        line.update(one.id, state)
        now = NOW + timedelta(seconds=clock_s)
        everyone = list(state.agents.values())
        waiting = [found for found in everyone if found.live and not found.active]
        due = sorted((found for found in waiting if is_due(found, now)), key=order_key)
        free = [
            found.id
            for found in due
            if state.tasks[found.task_id].spec.context.repository not in held
            and may_run_beside(found, worst_active(everyone))
        ]
        beside = standings_beside(worst_active(line.suspects.values()))
        assert line.first_due(now, beside, held.__contains__) == (free[0] if free else None)
        assert line.first_due(now) == (due[0].id if due else None)
        rebuilt = WaitingLine(state)
        assert rebuilt.first_due(now, beside, held.__contains__) == (free[0] if free else None)
        assert rebuilt.first_due(now) == line.first_due(now)
        assert (set(rebuilt.assigned), rebuilt.suspects) == (set(line.assigned), line.suspects)
        assert len(line) == len(waiting)
        assert sorted(filter(None, [line.rank(found.id) for found in waiting])) == list(
            range(1, len(waiting) + 1)
        )
        if due:
            assert line.rank(due[0].id) == 1
        later = [found.not_before for found in waiting if found.not_before and not is_due(found, now)]
        if not due:
            assert line.next_due() == min(later, default=None)
        assert set(line.assigned) == {
            found.id for found in everyone if found.live and found.phase is Phase.PREPARING
        }
    assert line.rank(AgentId("nobody")) is None


def test_a_repository_is_asked_for_once_however_many_of_its_agents_wait() -> None:
    state, asked = State(), list[str]()
    for number in range(90):
        state = put(state, agent(number, crashes=number % 2), REPOSITORIES[number % 3])
    last = agent(90, priority=1)
    line = WaitingLine(put(state, last, "https://example.org/free.git"))

    def held(repository: str) -> bool:
        asked.append(repository)
        return repository in REPOSITORIES

    assert line.first_due(NOW, [Standing.CLEAR], held) == last.id
    assert sorted(asked) == [*REPOSITORIES, "https://example.org/free.git"]
