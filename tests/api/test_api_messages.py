"""Speaking with agents over HTTP: what is said is durable, said once, and what they said can be read."""

from __future__ import annotations

import pytest

from orchestrator.core import events as e
from orchestrator.core.model import AgentId, TaskId, Usage
from orchestrator.core.words import MAX_MESSAGE, MAX_WAITING
from orchestrator.journal import transcript
from tests.api.test_api_work import spawn
from tests.kit.served import RawAnswer, Served


async def say(served: Served, agent: str, text: object = "hello", **headers: str) -> RawAnswer:
    return await served.ask("POST", f"/agents/{agent}/message", body={"text": text}, **headers)


async def test_what_is_said_is_durable_numbered_and_audited(served: Served) -> None:
    agent = await spawn(served)
    first, second = await say(served, agent, "one"), await say(served, agent, "two\n")
    assert (first.status, second.status) == (202, 202)
    assert first.json == {"agentId": agent, "message": 1, "status": "waiting"}
    assert second.json["message"] == 2
    stored = await served.store.stored_agent(agent)
    assert stored is not None
    waiting = [(message.number, message.text, message.sender) for message in stored.waiting]
    assert waiting == [(1, "one", "admin"), (2, "two\n", "admin")]


async def test_one_key_says_it_once(served: Served) -> None:
    agent = await spawn(served)
    first = await say(served, agent, Idempotency_Key="k")
    again = await say(served, agent, Idempotency_Key="k")
    assert (again.status, again.body) == (202, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    other = await say(served, agent, "something else", Idempotency_Key="k")
    assert (other.status, other.problem()["code"]) == (422, "idempotency_key_reused")
    assert served.store.state.agents[AgentId(agent)].said == 1


@pytest.mark.parametrize("text", ["", "  \n", "a\0b", "x" * (MAX_MESSAGE + 1), 7, None])
async def test_words_that_cannot_be_told_are_refused(served: Served, text: object) -> None:
    agent = await spawn(served)
    answer = await say(served, agent, text)
    assert (answer.status, answer.problem()["errors"][0]["field"]) == (422, "text")


async def test_who_is_unknown_over_or_has_too_much_to_hear_is_told_nothing(served: Served) -> None:
    assert (await say(served, "nobody")).problem()["code"] == "agent_not_found"
    agent = await spawn(served)
    for _ in range(MAX_WAITING):
        assert (await say(served, agent)).status == 202
    full = await say(served, agent)
    assert (full.status, full.problem()["code"]) == (429, "mailbox_full")
    await served.start(agent)
    await served.finish(agent)
    over = await say(served, agent)
    assert (over.status, over.problem()["code"]) == (409, "already_ended")


async def test_the_transcript_has_turns_tools_and_words_page_by_page(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await spawn(served)
    await served.start(agent)
    ids = {"task_id": TaskId("T-1"), "agent_id": AgentId(agent)}
    spent = Usage(input_tokens=3, cost_usd=0.5)
    fields = {"stop_reason": "tool_use", "duration_ms": 1.5, "prompt": 1, "model": "m", "usage": spent}
    words = ['[{"role":"user"}]', "no JSON", "1e999", None]
    for number, content in enumerate(words, 1):
        said = e.said(content) if content else {}
        await served.store.record(e.AgentTurn(**ids, **said, **fields, turn=number, text=f"t{number}"))
    await served.store.record(e.AgentUsage(**ids, **e.said('["result"]'), usage=Usage(tool_calls=2)))
    await served.store.record(e.AgentUsage(**ids, usage=spent))
    page = (await served.ask("GET", f"/agents/{agent}/transcript")).json
    assert page["next"] is None
    assert [turn["kind"] for turn in page["turns"]] == ["turn"] * 4 + ["tools"]
    assert [turn["content"] for turn in page["turns"]] == [
        [{"role": "user"}], "no JSON", "1e999", None, ["result"],
    ]  # fmt: skip
    turn = page["turns"][0]
    assert (turn["turn"], turn["prompt"], turn["model"], turn["text"]) == (1, 1, "m", "t1")
    assert (turn["stopReason"], turn["durationMs"], turn["usage"]["costUsd"]) == ("tool_use", 1.5, 0.5)
    assert page["turns"][4]["usage"]["toolCalls"] == 2
    monkeypatch.setattr(transcript, "MAX_PAGE_BYTES", 20)
    assert await paged(served, agent, "limit=2") == page["turns"]
    assert await paged(served, agent, "limit=100") == page["turns"]


async def paged(served: Served, agent: str, query: str) -> list[object]:
    """Return the turns of all pages, each of which has some."""
    turns, after = list[object](), "0"
    while after is not None:
        page = (await served.ask("GET", f"/agents/{agent}/transcript?{query}&after={after}")).json
        assert page["turns"]
        turns += page["turns"]
        after = page["next"]
    return turns
