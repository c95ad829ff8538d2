"""What was said to a model: beside the journal, in its transaction, and vouched for by its hash."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from orchestrator.core.events import AgentParked, AgentPhase, AgentResumed, AgentTurn, AgentUsage, said
from orchestrator.core.model import AgentId, Phase, Usage
from orchestrator.errors import JournalCorrupt
from orchestrator.journal.encoding import wire
from orchestrator.journal.verify import verify_file
from tests.journal.rig import running_store, work

WORDS = '{"role":"assistant","text":"\\u0000 \N{TEST TUBE} ' + "long " * 10_000 + '"}'
SPENT = Usage(input_tokens=5, output_tokens=7, cost_usd=0.25, cache_read_tokens=11, cache_write_tokens=13)


def turn_of(ids: dict[str, str], turn: int, content: str = WORDS) -> AgentTurn:
    """Return the event of one turn of a model."""
    return AgentTurn(
        **ids,
        **said(content),
        turn=turn,
        stop_reason="tool_use",
        duration_ms=1.0,
        prompt=1,
        model="m",
        usage=SPENT,
    )


async def test_what_was_said_is_kept_beside_the_journal_and_read_again_after_a_start(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        ids = await work(store, "t", "a")
        recorded = await store.record(turn_of(ids, 1), AgentUsage(**ids, usage=SPENT))
        await store.record(AgentUsage(**ids, **said("[1]"), usage=Usage(tool_calls=2)))
        await store.record(AgentPhase(**ids, phase=Phase.CHECKING, answered=1))
        assert "long" not in wire(recorded[0])
    async with running_store(tmp_path) as store:
        assert [message.content for message in await store.messages("a")] == [WORDS, "[1]"]
        assert [message.content for message in await store.messages("a", after=recorded[0].seq)] == ["[1]"]
        agent = store.state.agents[AgentId("a")]
        assert (agent.turn, agent.answered, agent.furthest) == (1, 1, 1)
        assert agent.usage == SPENT.plus(Usage(turns=1, tool_calls=2))
        assert agent.usage.tokens == 5 + 7 + 11 + 13
    connection = apsw.Connection(str(tmp_path / "orchestrator.db"))
    columns = (
        "turn, prompt, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd"
    )
    assert connection.execute(f"SELECT {columns} FROM turns").fetchall() == [(1, 1, "m", 5, 7, 11, 13, 0.25)]
    connection.close()
    verify_file(tmp_path / "orchestrator.db")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("UPDATE messages SET content = content || ' '", "is not what was written"),
        ("DELETE FROM messages", "is missing"),
    ],
)
async def test_verification_finds_changed_and_missing_words(
    tmp_path: Path, change: str, complaint: str
) -> None:
    async with running_store(tmp_path) as store:
        ids = await work(store, "t", "a")
        await store.record(turn_of(ids, 1))
        # Whose own words name the hash is not taken for one who has lost his words.
        await store.record(AgentTurn(**ids, turn=2, stop_reason="exit", duration_ms=1.0, text="contentHash"))
    verify_file(tmp_path / "orchestrator.db")
    connection = apsw.Connection(str(tmp_path / "orchestrator.db"))
    connection.execute(change)
    connection.close()
    with pytest.raises(JournalCorrupt, match=complaint):
        verify_file(tmp_path / "orchestrator.db")


async def test_a_prompt_is_answered_by_many_turns_and_by_one_where_the_turn_names_none(
    tmp_path: Path,
) -> None:
    async with running_store(tmp_path) as store:
        ids = await work(store, "t", "a")
        await store.record(turn_of(ids, 1), turn_of(ids, 2))
        assert (store.state.agents[ids["agent_id"]].turn, store.state.agents[ids["agent_id"]].answered) == (
            2,
            0,
        )
        await store.record(AgentTurn(**ids, turn=3, stop_reason="exit", duration_ms=1.0))
        assert store.state.agents[ids["agent_id"]].answered == 3
        await store.record(AgentPhase(**ids, phase=Phase.STARTING, worktree="new"))
        agent = store.state.agents[ids["agent_id"]]
        assert (agent.turn, agent.answered, agent.furthest) == (0, 0, 3)


async def test_an_agent_that_waited_goes_on_at_work_and_not_in_the_queue(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        ids = await work(store, "t", "a")
        await store.record(AgentParked(**ids, message="the provider asks to wait"))
        assert store.state.agents[ids["agent_id"]].phase is Phase.PARKED
        await store.record(AgentResumed(**ids, waited=True))
        agent = store.state.agents[ids["agent_id"]]
        assert (agent.phase, agent.resumed, agent.active) == (Phase.WORKING, False, True)
