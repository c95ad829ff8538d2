"""J4 and restarts: the tables are the fold of the journal, and a start finds the state that was committed."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import hypothesis
import hypothesis.strategies as st
import trio

from orchestrator.core import events as e
from orchestrator.core.commands import (
    AbandonAgent,
    AssignAgent,
    CancelTask,
    ChangeQueueSettings,
    ClearQueue,
    Command,
    CompleteAgent,
    FailAgent,
    KillAgent,
    PauseQueue,
    ResumeAgent,
    ResumeQueue,
    StartAgent,
    SubmitTask,
    TakeWork,
    TellAgent,
)
from orchestrator.core.model import AgentId, Phase, PushIntent, Reason, State, TaskId, Usage, Verdict
from orchestrator.core.words import Concern, Step
from orchestrator.errors import CommandRefused, IllegalTransition
from orchestrator.journal.store import Store, utc_now
from tests.journal.rig import running_store, submission
from tests.kit.refold import refold, tables

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
PUSH = PushIntent(remote="r", ref="refs/heads/x", old="", new="n")
AGENTS = 4

Move = Command | e.Event


def moves() -> st.SearchStrategy[list[tuple[str, int, int]]]:
    return st.lists(
        st.tuples(st.sampled_from(sorted(MOVES)), st.integers(0, AGENTS - 1), st.integers(0, 3)), max_size=40
    )


def ids(state: State, number: int) -> dict[str, Any]:
    """Return the ids of the latest agent at the task, or made-up ones."""
    task = state.tasks.get(TaskId(f"t{number}"))
    return {"task_id": TaskId(f"t{number}"), "agent_id": task.agent_id if task else AgentId("none")}


def agent(state: State, number: int) -> AgentId:
    return AgentId(ids(state, number)["agent_id"])


FRESH = iter(range(10**9))


def fresh() -> AgentId:
    return AgentId(f"a{next(FRESH)}")


def verdict(extra: int) -> Verdict:
    return Verdict(
        gate="tests", approved=False, message="no\0", commit="c", round=extra, command=("a",), tests=extra
    )


def following(task_id: str, *others: str) -> SubmitTask:
    command = submission(task_id, fresh())
    return replace(command, spec=command.spec.model_copy(update={"depends_on": others}))


MOVES: dict[str, Any] = {
    "submit": lambda s, n, x: submission(f"t{n}", fresh(), priority=x + 1, max_retries=x),
    "follow": lambda s, n, x: following(f"t{n}", f"t{(n + x + 1) % 4}", "t0"),
    "abandon": lambda s, n, x: AbandonAgent(agent(s, n), TaskId(f"t{x}")),
    "assign": lambda s, n, x: AssignAgent(agent(s, n)),
    "start": lambda s, n, x: StartAgent(agent(s, n), f"sandbox{x}"),
    "complete": lambda s, n, x: CompleteAgent(agent(s, n), Reason.DONE, "c", "b"),
    "fail": lambda s, n, x: FailAgent(
        agent(s, n),
        Reason.AGENT_ERROR,
        "bad\0\u2028",
        bool(x % 2),
        fresh(),
        NOW + timedelta(microseconds=1_234_567),
    ),
    "kill": lambda s, n, x: KillAgent(agent(s, n), Reason.OPERATOR, "why"),
    "cancel": lambda s, n, x: CancelTask(TaskId(f"t{n}")),
    "resume": lambda s, n, x: ResumeAgent(
        agent(s, n), crashed=bool(x % 2), not_before=NOW + timedelta(seconds=x) if x > 1 else None
    ),
    "pause": lambda s, n, x: PauseQueue(),
    "unpause": lambda s, n, x: ResumeQueue(),
    "clear": lambda s, n, x: ClearQueue(),
    "settings": lambda s, n, x: ChangeQueueSettings(max_concurrent=x + 1, stop_on_failure=bool(n)),
    "phase": lambda s, n, x: e.AgentPhase(**ids(s, n), phase=list(Phase)[x + 1], base="b", sandbox=f"s{x}"),
    "landing": lambda s, n, x: e.AgentPhase(**ids(s, n), phase=Phase.LANDING, push=PUSH),
    "landed": lambda s, n, x: e.PushCompleted(**ids(s, n), push=PUSH),
    "turn": lambda s, n, x: e.AgentTurn(
        **ids(s, n), turn=x, stop_reason="end", exit_code=x or None, duration_ms=0.1 * x
    ),
    "usage": lambda s, n, x: e.AgentUsage(**ids(s, n), usage=Usage(input_tokens=x, cost_usd=0.1 * x)),
    "judge": lambda s, n, x: e.GateRejected(**ids(s, n), verdict=verdict(x)),
    "commit": lambda s, n, x: e.CommitCreated(
        **ids(s, n), commit=f"c{x}", base="b", branch="br", files=1, additions=1, deletions=0
    ),
    "tell": lambda s, n, x: TellAgent(agent(s, n), f"words\u2028{x}", "me" if x else None),
    "hear": lambda s, n, x: e.AgentMessage(**ids(s, n), number=x, delivered=True),
    "see to": lambda s, n, x: e.AgentAttention(
        **ids(s, n), message="m", step=list(Step)[x % 3], concern=list(Concern)[x]
    ),
    "take": lambda s, n, x: TakeWork(agent(s, n)),
    "cleanup": lambda s, n, x: e.AgentCleanup(**ids(s, n)),
    "freeze": lambda s, n, x: e.ControlFrozen(),
    "thaw": lambda s, n, x: e.ControlThawed(),
}


async def perform(store: Store, history: list[tuple[str, int, int]]) -> None:
    """Make the moves that are possible; earlier attempts are asked for as the API does."""
    for name, number, extra in history:
        move = MOVES[name](store.state, number, extra)
        try:
            if isinstance(move, e.Event):
                await store.record(move)
            elif isinstance(move, SubmitTask):
                earlier = await store.attempts(f"t{number}")
                await store.submit(type(move)(move.spec, move.agent_id, move.runtime, earlier))
            else:
                await store.submit(move)
        except (CommandRefused, IllegalTransition):
            continue


def place(store: Store, agent_id: AgentId) -> tuple[int | None, tuple[TaskId, ...]]:
    return store.queue_position(agent_id), store.waiting.blocked.unmet(agent_id)


async def live(home: Path, history: list[tuple[str, int, int]]) -> None:
    async with running_store(home, max_agents=3) as store:
        await perform(store, history)
        before, line = store.state, [place(store, name) for name in store.state.agents]
        doomed, first = store.waiting.blocked.doomed, store.waiting.first_due(utc_now())
        agents = [await store.stored_agent(name) for name in before.agents]
        assert agents == list(before.agents.values())
        events = [found for page in range(3) for found in await store.events_after(page * 1000, limit=1000)]
    async with running_store(home, max_agents=3) as store:
        assert store.state == before
        assert [place(store, name) for name in before.agents] == line
        assert (store.waiting.blocked.doomed, store.waiting.first_due(utc_now())) == (doomed, first)
        # What is found again is the same, type by type: a string that should be an enum would not show.
        assert {type(agent.status) for agent in store.state.agents.values()} == {
            type(agent.status) for agent in before.agents.values()
        }
    refold(events, home / "again.db", random.Random(len(events)))
    assert tables(home / "again.db") == tables(home / "orchestrator.db")


async def test_rows_are_the_same_whatever_was_committed_together(tmp_path: Path) -> None:
    history = [("submit", 0, 0), ("assign", 0, 0), ("resume", 0, 2), ("assign", 0, 0), ("resume", 0, 3)]
    async with running_store(tmp_path) as store:
        await perform(store, history)
        events = await store.events_after(0, limit=1000)
    assert events[-1].event.name == "task.queued"
    for first in range(1, len(events)):  # two transactions, split everywhere
        draws = iter(range(1, len(events) + 1))
        chance = random.Random()
        chance.random = lambda first=first, draws=draws: float(next(draws) not in {first, len(events)})  # type: ignore[method-assign]
        refold(events, tmp_path / f"{first}.db", chance)
        assert tables(tmp_path / f"{first}.db") == tables(tmp_path / "orchestrator.db"), first


@hypothesis.given(moves())
@hypothesis.settings(max_examples=40)
def test_a_start_finds_the_state_and_the_tables_are_the_fold_of_the_journal(
    history: list[tuple[str, int, int]],
) -> None:
    with tempfile.TemporaryDirectory() as home:
        trio.run(live, Path(home), history)


async def test_an_arrived_push_survives_a_restart_and_rows_of_before_read_as_not_arrived(
    tmp_path: Path,
) -> None:
    history = [(name, 0, 0) for name in ("submit", "assign", "start", "landing", "landed")]
    await live(tmp_path, history)
    async with running_store(tmp_path, max_agents=3) as store:
        assert [agent.pushed for agent in store.state.agents.values()] == [True]
    connection = apsw.Connection(str(tmp_path / "orchestrator.db"))
    connection.execute("UPDATE agents SET metadata = json_remove(metadata, '$.pushed')")
    connection.close()
    async with running_store(tmp_path, max_agents=3) as store:
        assert [agent.pushed for agent in store.state.agents.values()] == [False]


async def test_a_whole_life_survives_a_restart(tmp_path: Path) -> None:
    history = [
        *[
            ("submit", 0, 2),
            ("submit", 1, 3),
            ("assign", 0, 0),
            ("start", 0, 1),
            ("turn", 0, 1),
            ("usage", 0, 2),
        ],
        *[("judge", 0, 1), ("turn", 0, 0), ("commit", 0, 1), ("landing", 0, 0), ("fail", 0, 1)],
        *[
            ("assign", 1, 0),
            ("kill", 1, 0),
            ("cleanup", 1, 0),
            ("submit", 1, 1),
            ("settings", 1, 1),
            ("pause", 0, 0),
        ],
    ]
    await live(tmp_path, history)
