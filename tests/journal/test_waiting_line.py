"""The waiting line agrees with a walk over the queued agents, whatever happens to them and to the clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import hypothesis
import hypothesis.strategies as st

from orchestrator.core.claims import HIGHEST, Claim, patience
from orchestrator.core.model import Agent, AgentId, AgentStatus, Phase, State, Task, TaskId, TaskStatus
from orchestrator.core.policy import (
    MAX_CRASHES,
    Standing,
    is_due,
    may_run_beside,
    order_key,
    standing,
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


def next_of(state: State, claims: list[Claim], due: list[Agent], free: list[Agent]) -> AgentId | None:
    """Return who goes next of those who are free to, by the definitions and nothing else."""

    def since(priority: int) -> int:
        first = min(one.queued_seq for one in due if one.priority == priority)
        return max([first, *(claim.seq for claim in claims if claim.priority == priority)])

    def overtaken(priority: int) -> int:
        return sum(claim.priority > priority and claim.seq > since(priority) for claim in claims)

    def turn(one: Agent) -> tuple[int, int]:
        lane = (state.tasks[one.task_id].spec.context.repository, one.priority)
        own = [other for other in due if lane_of(state, other) == lane and same_standing(one, other)]
        first = min(own, key=lambda other: (other.queued_seq, other.id))
        served = [claim.seq for claim in claims if (claim.repository, claim.priority) == lane]
        return max([first.queued_seq, *served]), one.queued_seq

    priorities = sorted({one.priority for one in due}, reverse=True)
    overdue = [each for each in priorities if each < HIGHEST and overtaken(each) >= patience(each)]
    for priority in [*sorted(overdue, key=since), *(each for each in priorities if each not in overdue)]:
        if lane := [one for one in free if one.priority == priority]:
            return min(lane, key=turn).id
    return None


def lane_of(state: State, one: Agent) -> tuple[str, int]:
    return state.tasks[one.task_id].spec.context.repository, one.priority


def same_standing(one: Agent, other: Agent) -> bool:
    return standing(one) is standing(other)


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
            st.integers(6, 10),
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
def test_line_agrees_with_a_walk(steps: list[tuple[Agent, str, str, int, frozenset[str]]]) -> None:
    state, claims = State(), list[Claim]()
    line = WaitingLine(state)
    for seq, (one, repository, what, clock_s, held) in enumerate(steps, start=5):
        if what == "gone":
            agents = state.agents.delete(one.id) if one.id in state.agents else state.agents
            state = replace(state, agents=agents)
        else:
            state = put(state, CHANGES[what](one), repository)
        if what == "assign":  # of nine, so that somebody is overdue before long
            claims += [Claim(10 * seq + more, repository, one.priority) for more in range(9)]
            for claim in claims[-9:]:
                line.claimed(claim)
        line.update(one.id, state)
        now = NOW + timedelta(seconds=clock_s)
        everyone = list(state.agents.values())
        waiting = [found for found in everyone if found.live and not found.active]
        due = sorted((found for found in waiting if is_due(found, now)), key=order_key)
        free = [
            found
            for found in due
            if state.tasks[found.task_id].spec.context.repository not in held
            and may_run_beside(found, worst_active(everyone))
        ]
        beside = standings_beside(worst_active(line.suspects.values()))
        assert line.first_due(now, beside, held.__contains__) == next_of(state, claims, due, free)
        assert line.first_due(now) == next_of(state, claims, due, due)
        rebuilt = WaitingLine(state, claims)
        assert rebuilt.first_due(now, beside, held.__contains__) == next_of(state, claims, due, free)
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


def test_one_task_of_a_repository_waits_for_one_turn_of_a_crowd_of_another() -> None:
    state = State()
    for number in range(200):
        state = put(state, agent(number), REPOSITORIES[0])
    line, seq = WaitingLine(state), 1000
    for number, repository in ((300, REPOSITORIES[1]), (301, REPOSITORIES[2]), (302, REPOSITORIES[1])):
        state = put(state, agent(number), repository)
        line.update(AgentId(f"a{number}"), state)
    taken = []
    for _ in range(6):
        found = line.first_due(NOW)
        assert found is not None
        one = state.agents[found]
        state = put(state, replace(one, phase=Phase.PREPARING), lane_of(state, one)[0])
        line.claimed(Claim(seq := seq + 1, *lane_of(state, one)))
        line.update(found, state)
        taken.append(found)
    assert taken == ["a0", "a300", "a301", "a1", "a302", "a2"]
