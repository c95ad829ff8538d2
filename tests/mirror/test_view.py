"""What is mirrored is a function of the journal, and no event changes it unseen."""

from __future__ import annotations

from pathlib import Path

from orchestrator.core import events as e
from orchestrator.core.commands import FailAgent, Freeze, KillAgent, ResumeAgent, TellAgent, Thaw
from orchestrator.core.machine import evolve
from orchestrator.core.model import AgentId, Phase, Reason, State
from orchestrator.core.usage import Usage
from orchestrator.journal.store import utc_now
from orchestrator.mirror.source import Source
from orchestrator.mirror.view import KEEP, TELLING, Entry, Place, agent_entry, place, task_entry
from tests.journal.rig import running_store, submission, work

Shown = tuple[dict[str, Entry], dict[str, Place]]


def shown(state: State) -> Shown:
    """Return everything that a state has mirrored."""
    now, entries, places = utc_now(), dict[str, Entry](), dict[str, Place]()
    for task in state.tasks.values():
        agent = state.agents.get(task.agent_id)
        entry, places[task.id] = task_entry(task, agent, now), place(task, agent)
        entries[entry.key] = entry
    entries.update({(entry := agent_entry(agent, now)).key: entry for agent in state.agents.values()})
    return entries, places


async def test_only_telling_events_change_what_is_mirrored(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        ids = await work(store, "t-1", "a-1")
        await store.submit(TellAgent(AgentId("a-1"), "hurry", None))
        await store.record(
            e.AgentUsage(**ids, usage=Usage(input_tokens=1)),
            e.AgentParked(**ids, message="a limit"),
            e.AgentResumed(**ids, waited=True),
            e.AgentPhase(**ids, phase=Phase.CHECKING),
            e.AgentTurn(**ids, turn=1, ok=True, stop_reason="end", duration_ms=1.0),
        )
        await store.submit(ResumeAgent(AgentId("a-1"), crashed=True))
        await store.submit(Freeze())
        await store.submit(Thaw())
        await store.submit(KillAgent(AgentId("a-1"), Reason.OPERATOR))
        await store.record(e.AgentCleanup(**ids))
        await work(store, "t-2", "a-2")
        failed = FailAgent(AgentId("a-2"), Reason.AGENT_ERROR, "no", True, AgentId("a-3"), utc_now())
        await store.submit(failed)
        state, telling = State(), 0
        for recorded in await store.events_after(0, limit=1000):
            after = evolve(state, recorded)
            if isinstance(recorded.event, TELLING):
                telling += 1
            else:
                assert shown(after) == shown(state), recorded.event.name
            state = after
        assert telling > 10


async def test_what_has_left_the_state_is_the_same_from_the_tables(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        ids = await work(store, "t", "a")
        await store.submit(KillAgent(AgentId("a"), Reason.OPERATOR, error="it \0 \u20ac"))
        before = shown(store.state)[0]
        await store.record(e.AgentCleanup(**ids))
        assert not store.state.agents
        now = utc_now()
        keys = ["orchestrator:agent:a", "orchestrator:task:t"]
        found = {entry.key: entry for entry in await Source(store, lambda: now).of_keys(keys)}
        assert found == before
        assert all(entry.expires_ms for entry in found.values())
        late = await Source(store, lambda: now + KEEP).of_keys(
            [*keys, "orchestrator:task:\udcff", "orchestrator:task:x"]
        )
        assert {entry.value for entry in late} == {None}


async def test_the_queue_is_by_priority_then_age(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        for number, priority in enumerate((1, 10, 5, 10)):
            await store.submit(submission(f"t{number}", f"a{number}", priority=priority))
        places = sorted(shown(store.state)[1].values(), key=lambda each: each.score or 0)
        assert [each.task_id for each in places] == ["t1", "t3", "t2", "t0"]
        assert all(float(each.score or 0) == each.score for each in places)
