"""The runtime `claude` against a scripted Messages API: turns, tools, resumption, and what the API may do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from pydantic import SecretStr

from orchestrator.agents.base import Prompt, Session, TurnResult
from orchestrator.agents.claude.incoming import Incoming
from orchestrator.agents.claude.runtime import CUT_CALL, LOST_CALL, MAX_UNFINISHED, ClaudeRuntime
from orchestrator.agents.claude.sdk import Sdk
from orchestrator.agents.models import ModelAccess
from orchestrator.agents.upstream import Upstream
from orchestrator.core import events as e
from orchestrator.core.trouble import ProviderFailure, Trouble
from orchestrator.errors import AgentError, FieldRefused
from tests.agents.conftest import Letterbox, Log, OpenSession, spec_of, work_of
from tests.agents.doors import CannedApi
from tests.kit.messages_api import ScriptedApi, script, scripted_api
from tests.kit.processes import fresh_mark, marked
from tests.kit.until import seen

MODEL = "claude-sonnet-5-5"


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    """Return an API that keeps what it was sent."""
    with scripted_api(keep_bodies=True) as running:
        yield running


def runtime_of(api: ScriptedApi, key: str = "secret-key") -> ClaudeRuntime:
    return ClaudeRuntime(ModelAccess(Upstream(api.url, SecretStr(key)), MODEL))


async def answer(api: ScriptedApi, session: Session, *prompts: str) -> list[TurnResult]:
    async with runtime_of(api).open(session) as turns:
        return [await turns.turn(Prompt(text, number)) for number, text in enumerate(prompts, start=1)]


async def played(api: ScriptedApi, session: Session, *steps: dict[str, Any]) -> TurnResult:
    return (await answer(api, session, "Please. " + script(*steps)))[0]


@pytest.fixture
def session(open_session: OpenSession) -> Session:
    return open_session(spec_of("unused"))


def results_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of tools in the last message of a request."""
    return [block for block in body["messages"][-1]["content"] if block["type"] == "tool_result"]


async def test_answers_are_journaled_before_their_calls_and_results_before_the_next_request(
    api: ScriptedApi, session: Session, log: Log, reachable_path: Path
) -> None:
    result = await played(
        api,
        session,
        {
            "say": "I begin.",
            "do": [{"run": "echo hi > a.txt"}, {"read": "a.txt"}],
            "usage": {"input_tokens": 7},
        },
        {"think": "hm", "do": {"edit": "a.txt", "old": "hi", "new": "ho"}},
        {"say": "All done."},
    )
    assert (result.ok, result.text, result.stop_reason, result.metered) == (
        True,
        "All done.",
        "end_turn",
        True,
    )
    assert (reachable_path / "workspace/a.txt").read_text() == "ho\n"
    kinds = [type(event).__name__ for event in log.events]
    assert kinds == ["AgentTurn", "AgentUsage", "AgentUsage"] * 2 + ["AgentTurn", "AgentUsage"]
    assert [event.usage.tool_calls for event in log.events if isinstance(event, e.AgentUsage)] == [
        0,
        2,
        0,
        1,
        0,
    ]
    bodies = [request.body for request in api.messages()]
    assert [result["content"] for result in results_of(bodies[1])] == ["(no output)", "     1\thi"]
    assert "I begin." in log.of("stdout")
    assert log.started == 1
    assert result.usage.output_tokens > 0


async def test_what_a_broken_answer_cost_and_what_a_cache_keeps_for_an_hour_are_counted(
    api: ScriptedApi, session: Session, log: Log
) -> None:
    told = {
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 5,
            "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 4},
        }
    }
    step = {"say_chars": 6000, "fault": {"kind": "cut", "after": 5, "times": 1}, **told}
    with pytest.raises(ProviderFailure):
        await played(api, session, step)
    await played(api, session, step)
    broken, whole = [event.usage for event in log.events if isinstance(event, e.AgentUsage)]
    assert 0 < broken.output_tokens < whole.output_tokens
    for usage in (broken, whole):
        assert (usage.input_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens) == (7, 5, 4)


async def test_prefix_stays_the_same_and_is_marked_for_the_cache(api: ScriptedApi, session: Session) -> None:
    steps = [{"think": "x", "do": {"run": f"echo {n}"}} for n in range(6)]
    await played(api, session, *steps)
    bodies = [request.body for request in api.messages()]
    assert len(bodies) == 7
    plain = [
        json.loads(json.dumps(body).replace(', "cache_control": {"type": "ephemeral"}', ""))
        for body in bodies
    ]
    for body, shorter, longer in zip(bodies, plain, plain[1:], strict=False):
        assert 3 <= json.dumps(body).count("cache_control") <= 4
        assert (shorter["system"], shorter["tools"]) == (longer["system"], longer["tools"])
        assert longer["messages"][: len(shorter["messages"])] == shorter["messages"]


async def test_blocks_that_nobody_knows_go_back_as_they_came(api: ScriptedApi, session: Session) -> None:
    strange = {"type": "hologram", "shape": {"a": [1, None]}, "text": "no text"}
    hidden = {"type": "redacted_thinking", "data": "abc="}
    await played(api, session, {"blocks": [hidden, strange], "do": {"run": "true"}}, {"say": "ok"})
    assert api.messages()[1].body["messages"][1]["content"][:2] == [hidden, strange]


@pytest.mark.parametrize("cut_after", [1, 2, 3, 4, 5])
async def test_no_turn_is_asked_twice_after_a_restart(
    api: ScriptedApi, open_session: OpenSession, log: Log, cut_after: int
) -> None:
    class Killed(Exception):
        pass

    record, count = log.record, 0

    async def record_and_die(*events: e.Event) -> None:
        nonlocal count
        await record(*events)
        count += 1
        if count == cut_after:
            raise Killed

    text = "Please. " + script(
        {"do": {"run": "echo x >> a"}}, {"do": {"run": "echo x >> a"}}, {"say": "done"}
    )
    log.record = record_and_die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        await answer(api, open_session(spec_of("unused")), text)
    log.record = record  # type: ignore[method-assign]
    result = (await answer(api, open_session(spec_of("unused"), resumed=True), text))[0]
    assert (result.ok, result.text) == (True, "done")
    assert [request.step for request in api.messages()] == [0, 1, 2]
    last = api.messages()[-1].body["messages"]
    lost = [block for message in last for block in message["content"] if block.get("content") == LOST_CALL]
    assert len(lost) == (1 if cut_after in {1, 3} else 0)


async def test_next_prompt_goes_on_in_the_same_conversation(api: ScriptedApi, session: Session) -> None:
    first = "Please. " + script({"do": {"run": "true"}}, {"say": "one"}, {"say": "two"})
    results = await answer(api, session, first, "That was wrong.")
    assert [result.text for result in results] == ["one", "two"]
    assert api.messages()[-1].body["messages"][-1]["content"][0]["text"] == "That was wrong."


async def test_what_is_said_meanwhile_is_told_beside_the_next_results(
    api: ScriptedApi, session: Session, letters: Letterbox, log: Log
) -> None:
    mark = fresh_mark("told")
    steps = ({"do": {"run": f"sh -c ': {mark}; while ! test -e go; do sleep 0.1; done'"}}, {"say": "I see"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(played, api, letters.on(session), *steps)
        await seen(lambda: marked(mark), "the first call runs")
        letters.put("mind the gap")
        letters.put("and the doors", sender=None)
        (work_of(session) / "go").touch()
    result, said = api.messages()[1].body["messages"][-1]["content"]
    assert result["type"] == "tool_result"
    assert said["text"].index("from ann\n\nmind the gap") < said["text"].index(
        "the orchestrator\n\nand the doors"
    )
    assert letters.told == [2]
    assert len(api.messages()) == 2


async def test_what_was_told_is_told_once_whatever_a_crash_left_undone(
    api: ScriptedApi, session: Session, letters: Letterbox, log: Log
) -> None:
    letters.put("mind the gap")
    text = "Please. " + script({"do": {"run": "true"}}, {"say": "one"}, {"say": "two"})
    await answer(api, letters.on(session), text)
    letters.told.clear()  # the crash came before that was journaled
    async with runtime_of(api).open(letters.on(session)) as turns:
        await turns.turn(Prompt(text, 1))
        assert (await turns.turn(Prompt("mind the gap", 1, message=1))).text == "one"
        assert len(api.messages()) == 2
        letters.put("that was wrong")
        assert (await turns.turn(Prompt("that was wrong", 1, message=2))).text == "two"
    asked = [request.body["messages"] for request in api.messages()]
    assert (json.dumps(asked[2]).count("mind the gap"), len(asked)) == (1, 3)
    assert asked[2][-1]["content"][0]["text"] == "that was wrong"
    assert letters.told == [1, 2]


async def test_a_prompt_of_messages_is_heard_with_its_answer_and_not_in_the_middle(
    api: ScriptedApi, session: Session, letters: Letterbox
) -> None:
    told: list[int] = []
    steps = ({"say": "one"}, {"do": {"run": "true"}}, {"say": "two"})
    attentive = replace(letters.on(session), note=lambda _: told.append(len(letters.told)))
    async with runtime_of(api).open(attentive) as turns:
        await turns.turn(Prompt("Please. " + script(*steps), 1))
        letters.put("mind the gap")
        await turns.turn(Prompt("mind the gap", 1, message=1))
    assert (told, letters.told) == ([0], [1])


async def test_each_call_is_noted_and_known_again_by_what_came_of_it(
    api: ScriptedApi, session: Session, letters: Letterbox
) -> None:
    calls = ({"run": "echo a"}, {"run": "echo a"}, {"tool": "fly"}, {"run": "date +%N"}, {"run": "date +%N"})
    await played(api, letters.on(session), *({"do": call} for call in calls), {"say": "ok"})
    first, again, other, *changing = letters.calls()
    assert first == again
    assert len({first, other, *changing}) == 4


async def test_call_that_is_wrong_is_told_and_the_model_goes_on(api: ScriptedApi, session: Session) -> None:
    wrong = [
        {"tool": "bash", "input": {}, "malformed": '{"command": "ls'},
        {"tool": "bash", "input": {}, "malformed": "[1]"},
        {"tool": "fly", "input": {"to": "the moon"}},
        {"tool": "bash", "input": {"command": 7}},
        {"tool": "read", "input": {}},
    ]
    result = await played(api, session, {"do": wrong}, {"say": "I see"})
    assert result.text == "I see"
    told = results_of(api.messages()[1].body)
    assert all(result["is_error"] for result in told)
    for found, said in zip(
        told,
        ("no JSON object", "no JSON object", "no tool 'fly'", "command: a text", "path: a text"),
        strict=True,
    ):
        assert said in found["content"]


async def test_answer_that_is_cut_off_goes_on_and_a_cut_call_is_not_made(
    api: ScriptedApi, session: Session, reachable_path: Path
) -> None:
    result = await played(
        api,
        session,
        {"say": "half", "stop": "max_tokens"},
        {"do": {"run": "touch never"}, "stop": "max_tokens"},
        {"say": "wait", "stop": "pause_turn"},
        {"say": "whole"},
    )
    assert result.text == "whole"
    assert not (reachable_path / "workspace/never").exists()
    bodies = [request.body for request in api.messages()]
    assert results_of(bodies[2])[0]["content"] == CUT_CALL
    assert bodies[3]["messages"][-1]["role"] == "assistant"
    assert "Go on exactly" in bodies[1]["messages"][-1]["content"][0]["text"]


async def test_answer_that_never_ends_is_given_up(api: ScriptedApi, session: Session) -> None:
    with pytest.raises(AgentError, match="cut off 9 times in a row"):
        await answer(api, session, script({"say": "x", "stop": "max_tokens"}, loop=True))
    assert len(api.messages()) == MAX_UNFINISHED + 1


async def test_refusal_is_told_with_its_reason_and_journaled(
    api: ScriptedApi, session: Session, log: Log
) -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "not that"}
    with pytest.raises(AgentError, match="refused to go on: cyber: not that; put the task in other words"):
        await played(api, session, {"stop": "refusal", "stop_details": details})
    assert [event.stop_reason for event in log.events if isinstance(event, e.AgentTurn)] == ["refusal"]


@pytest.mark.parametrize(
    ("fault", "trouble"),
    [
        ({"status": 401}, Trouble.LOGIN),
        ({"status": 403}, Trouble.FORBIDDEN),
        ({"status": 404}, Trouble.MODEL),
        ({"status": 400}, Trouble.REQUEST),
        ({"status": 429, "retry_after": 3}, Trouble.THROTTLED),
        ({"limit_resets_in_s": 3600}, Trouble.USAGE_LIMIT),
        ({"status": 500}, Trouble.SERVER_ERROR),
        ({"status": 529}, Trouble.OVERLOADED),
        ({"kind": "reset"}, Trouble.NETWORK),
        ({"kind": "reset", "after": 4}, Trouble.NETWORK),
        ({"kind": "cut"}, Trouble.NETWORK),
        ({"kind": "end"}, Trouble.NETWORK),
        ({"kind": "garbage"}, Trouble.NETWORK),
        ({"kind": "garbage", "after": 2}, Trouble.NETWORK),
        ({"kind": "error"}, Trouble.OVERLOADED),
        ({"kind": "error", "type": "api_error"}, Trouble.SERVER_ERROR),
        ({"kind": "error", "type": "rate_limit_error"}, Trouble.THROTTLED),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else str(value),
)
async def test_failures_are_told_apart(
    api: ScriptedApi, session: Session, log: Log, fault: dict[str, Any], trouble: Trouble
) -> None:
    with pytest.raises(ProviderFailure) as failed:
        await played(api, session, {"say": "never heard", "fault": fault})
    assert (failed.value.trouble, failed.value.begun) == (trouble, False)
    assert len(api.messages()) == 1
    assert not any(isinstance(event, e.AgentTurn) for event in log.events)
    begun = fault.get("after") or fault.get("kind") in {"cut", "end", "error"}
    assert len(log.events) == bool(begun)  # what it cost all the same
    assert "secret-key" not in str(failed.value)


async def asked_of(site: CannedApi) -> ProviderFailure:
    """Return how a request to it fails."""
    sdk = Sdk(Upstream(site.url, SecretStr("k")))
    try:
        with pytest.raises(ProviderFailure) as failed:
            await sdk.ask({"model": MODEL, "max_tokens": 1, "messages": []})
    finally:
        await sdk.aclose()
    return failed.value


async def test_error_without_end_is_read_no_further_than_it_is_shown() -> None:
    endless = CannedApi(b"HTTP/1.1 500 no\r\n\r\n" + b"x" * 1_000_000, then_hangs=True)
    async with endless.open():
        with trio.fail_after(60):
            assert (await asked_of(endless)).trouble is Trouble.SERVER_ERROR
            await endless.left.wait()


async def test_work_is_not_taken_to_where_the_provider_points() -> None:
    elsewhere = CannedApi(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    async with elsewhere.open():
        head = f"HTTP/1.1 307 there\r\nlocation: {elsewhere.url}/\r\ncontent-length: 0\r\n\r\n"
        site = CannedApi(head.encode())
        async with site.open():
            assert (await asked_of(site)).detail == "HTTP 307"
        assert not elsewhere.left.is_set()


async def test_api_that_is_not_there_is_told_at_once(session: Session) -> None:
    runtime = ClaudeRuntime(ModelAccess(Upstream("http://127.0.0.1:1", SecretStr("k")), MODEL))
    with pytest.raises(ProviderFailure) as failed, trio.fail_after(5):
        async with runtime.open(session) as turns:
            await turns.turn(Prompt("hi", 1))
    assert failed.value.trouble is Trouble.NETWORK


async def test_cut_in_the_stream_closes_the_connection(api: ScriptedApi, session: Session) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(played, api, session, {"say_chars": 100_000, "pause_s": 0.05})
            await seen(lambda: api.messages() and api.messages()[0].status == 200, "the answer begins")
            scope.cancel()
    await seen(lambda: api.messages()[0].how == "cut by the client", "the API sees it leave")


async def test_cut_in_a_call_leaves_no_process(api: ScriptedApi, session: Session) -> None:
    mark = fresh_mark("tool")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(played, api, session, {"do": {"run": f"sh -c ': {mark}; sleep 1000; :'"}})
            await seen(lambda: marked(mark), "it runs")
            scope.cancel()
    assert not marked(mark)


async def test_sandbox_that_ends_in_a_call_ends_the_turn_as_it_did(
    api: ScriptedApi, session: Session, log: Log
) -> None:
    result = await played(api, session, {"do": {"run": "kill -9 $PPID; sleep 1000"}})
    assert not result.ok
    assert result.exit is not None
    assert not result.exit.ok
    assert "the tool server in the sandbox ended with" in log.of("system")[-1]


async def test_key_is_in_no_environment_argument_or_file_inside(api: ScriptedApi, session: Session) -> None:
    look = (
        "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'; env; grep -rs secret- ."
    )
    await played(api, session, {"do": {"run": look}}, {"say": "ok"})
    assert api.messages()[0].key == "secret-key"
    assert "secret-key" not in results_of(api.messages()[1].body)[0]["content"]


async def test_results_are_bounded_for_all_calls_of_an_answer(api: ScriptedApi, session: Session) -> None:
    calls = [{"run": "head -c 100000 /dev/zero | tr '\\0' x"} for _ in range(8)]
    await played(api, session, {"do": calls}, {"say": "ok"})
    told = results_of(api.messages()[1].body)
    assert len(told) == 8
    assert sum(len(result["content"]) for result in told) < 155_000
    assert "make fewer calls" in told[-1]["content"]


def test_sdk_is_there_before_a_request_is_counted_as_under_way() -> None:
    code = """
import sys, trio
from types import SimpleNamespace as Some
from pydantic import SecretStr
from orchestrator.agents.claude.runtime import ClaudeRuntime
from orchestrator.agents.models import ModelAccess
from orchestrator.agents.upstream import Upstream
async def recall():
    return []
async def main():
    assert "anthropic" not in sys.modules
    session = Some(recall=recall, output=None, spec=Some(options=Some(model="m")))
    access = ModelAccess(Upstream("http://127.0.0.1:1", SecretStr("k")), "m")
    async with ClaudeRuntime(access).open(session):
        assert "anthropic" in sys.modules
trio.run(main)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runtime_without_a_key_is_refused_with_the_fix() -> None:
    with pytest.raises(FieldRefused, match="set CLAUDE_API_KEY"):
        ClaudeRuntime(ModelAccess(Upstream())).check(spec_of("unused"))


@pytest.mark.parametrize(
    "events",
    [
        [{"index": None, "content_block": {"type": "text", "text": "a"}}],
        [{"index": 0, "content_block": {"type": "tool_use", "id": "a", "name": "bash", "input": 5}}],
        [{"index": 0, "content_block": {"type": "tool_use", "id": 5, "name": [], "input": {}}}],
    ],
    ids=["no place", "no input", "no names"],
)
def test_blocks_of_an_impossible_shape_are_a_failure_of_the_provider(events: list[dict[str, Any]]) -> None:
    incoming = Incoming()
    words = [{"type": "content_block_start", **event} for event in events]
    failures = [incoming.feed(f"data: {json.dumps(each)}\n\n".encode()) for each in words]
    assert [failure.trouble for failure in failures if failure] == [Trouble.SERVER_ERROR]


@pytest.mark.parametrize("usage", [5, [1], {"input_tokens": 2**80}, {"output_tokens": -1}])
def test_counts_that_are_none_are_a_failure_of_the_provider(usage: object) -> None:
    start = {"type": "message_start", "message": {"model": "m", "usage": usage}}
    failure = Incoming().feed(f"data: {json.dumps(start)}\n\n".encode())
    assert failure is not None
    assert failure.trouble is Trouble.SERVER_ERROR
