"""The door to the model against those who mean harm: agents behind it, and providers before it."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
import trio

from orchestrator.agents import proxy
from orchestrator.agents.asked import MAX_PROMPT_TOKENS, Refused, check_model, content_of, read_body
from orchestrator.agents.base import Request
from orchestrator.agents.provider import MAX_LINES, Provider
from orchestrator.core.message import Message
from orchestrator.errors import ProviderRefused
from tests.agents.doors import MODEL, OURS, CannedApi, Doors, Knocker, asked
from tests.kit.messages_api import ScriptedApi, script
from tests.kit.until import seen

# --- headers -----------------------------------------------------------------------------------------------


async def test_headers_that_are_no_ascii_end_nothing_but_are_passed_on(doors: Doors) -> None:
    api = CannedApi(b"HTTP/1.1 400 no\r\nrequest-id: \xe9\r\ncontent-length: 2\r\n\r\nno")
    body = json.dumps(asked("x")).encode()
    head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nuser-agent: caf\xe9\r\nconnection: close\r\n"
    async with api.open(), doors.open(api.url) as at, at.knock() as knocker:
        await knocker.say(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        answer = await knocker.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"request-id: \xe9" in answer


async def test_head_request_that_is_refused_is_answered_without_a_body(
    doors: Doors, shared: ScriptedApi
) -> None:
    async with doors.open(shared) as at:
        assert await at.ask("HEAD", "/v1/messages") == (403, b"")
        assert (await at.ask("GET", "/v1/messages"))[1] != b""


async def test_another_way_to_log_in_is_not_passed_on(doors: Doors, shared: ScriptedApi) -> None:
    betas = "context-1m-2025-08-07, oauth-2025-04-20,OAuth-x"
    async with doors.open(shared) as at:
        await at.ask("POST", "/v1/messages", asked(script(agent="betas")), anthropic_beta=betas)
        await at.ask(
            "POST", "/v1/messages", asked(script(agent="no-beta")), anthropic_beta="oauth-2025-04-20"
        )
    (with_one,), (without,) = shared.messages("betas"), shared.messages("no-beta")
    assert with_one.headers["anthropic-beta"] == "context-1m-2025-08-07"
    assert "anthropic-beta" not in without.headers


# --- what one does to others -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_refusal_is_known_to_be_of_a_request_that_a_program_wrote(doors: Doors, status: int) -> None:
    api, meter = CannedApi(b"HTTP/1.1 %d no\r\ncontent-length: 0\r\n\r\n" % status), doors.meter()

    async def work() -> None:
        async with doors.open(api.url, meter=meter) as at:
            await at.ask("POST", "/v1/messages", asked("x"))

    async with api.open():
        with pytest.raises(ProviderRefused):
            await work()
    assert [failure.of_program for failure in meter.failures] == [True]


def test_names_of_models_that_agents_make_up_are_not_remembered() -> None:
    provider = Provider()
    for number in range(1000):
        provider.line(f"claude-sonnet-{number}")
    assert len(provider.lines) <= MAX_LINES
    with pytest.raises(Refused, match="not this agent's"):
        check_model("claude-sonnet-" + "x" * 1000, ["claude-sonnet-*"])


# --- what it costs -----------------------------------------------------------------------------------------


def weighed(content: object, **more: object) -> Request:
    body = asked("x", messages=[{"role": "user", "content": content}], **more)
    return read_body(json.dumps(body).encode(), [MODEL]).request


def test_dense_prompt_is_reserved_for_as_if_each_byte_were_a_token() -> None:
    dense = weighed("!?" * 30_000)
    assert dense.most_input_tokens >= 60_000 > dense.input_tokens


def test_small_document_may_have_as_many_tokens_as_any_prompt() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    page = weighed([{"type": "document", "source": source}])
    picture = weighed([{"type": "image", "source": source}])
    assert page.most_input_tokens == MAX_PROMPT_TOKENS
    assert picture.most_input_tokens < 10_000


def test_what_a_provider_adds_for_tools_is_reserved() -> None:
    tools = [{"type": "computer_20250124", "name": f"c{number}"} for number in range(20)]
    assert weighed("x", tools=tools).most_input_tokens > 20_000


@pytest.mark.parametrize("extra", [{"inference_geo": "us"}, {"speed": "fast"}])
def test_what_makes_tokens_dearer_than_their_price_is_refused(extra: dict[str, object]) -> None:
    with pytest.raises(Refused, match="no price is known"):
        weighed("x", **extra)


def test_what_is_written_to_a_cache_for_an_hour_is_counted_as_such() -> None:
    message = Message()
    counts = {"input_tokens": 1, "cache_creation_input_tokens": 9, "cache_creation": {}}
    message.add({"type": "message_start", "message": {"type": "message", "model": "m", "usage": counts}})
    counts["cache_creation"] = {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 7}
    message.add({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": counts})
    assert (message.usage.cache_write_tokens, message.usage.cache_write_1h_tokens) == (9, 7)


async def test_who_leaves_before_the_provider_speaks_has_spent_the_prompt(
    doors: Doors, shared: ScriptedApi
) -> None:
    prompt = script({"fault": {"kind": "hang"}}, agent="leaves-at-once")
    body = asked(prompt + "word " * 6000, stream=True)
    async with doors.open(shared) as at:
        async with at.knock() as knocker:
            await knocker.begin("POST", "/v1/messages", body)
            await seen(lambda: shared.messages("leaves-at-once"), "it is asked")
        await seen(at.turns, "it is counted")
    (used,) = at.usages()
    assert used.usage.input_tokens > 6000


# --- what it takes of the host -----------------------------------------------------------------------------

POST = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n"


async def test_body_in_crumbs_is_refused_before_it_takes_long(doors: Doors, shared: ScriptedApi) -> None:
    async with doors.open(shared) as at, at.knock() as knocker:
        await knocker.say(POST + b"transfer-encoding: chunked\r\n\r\n" + b"2\r\nxx\r\n" * 2000)
        assert (await knocker.rest()).startswith(b"HTTP/1.1 400 ")


async def test_bodies_on_their_way_have_one_room_for_all(
    doors: Doors, shared: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "MAX_HELD_BYTES", 100_000)
    words = POST + b"content-length: 90000\r\n\r\n" + b" " * 80_000
    async with doors.open(shared) as at:
        async with at.knock() as first, at.knock() as second:
            await first.say(words)
            await second.say(words)
            async with trio.open_nursery() as nursery:
                refused: list[bytes] = []

                async def hear(knocker: Knocker) -> None:
                    refused.append(await knocker.rest())
                    nursery.cancel_scope.cancel()

                nursery.start_soon(hear, first)
                nursery.start_soon(hear, second)
            assert refused[0].startswith(b"HTTP/1.1 413 ")
        await seen(lambda: at.door.connections == 0, "both are gone")
        async with at.knock() as third:
            await third.say(words + b" " * 10_000)
            answer = bytes(await third.stream.receive_some(65536))
            assert answer.startswith(b"HTTP/1.1 400 "), "there is room again, and it is no JSON"


# --- providers that say what they should not ---------------------------------------------------------------


@pytest.mark.parametrize("index", ["1e999", "-1e999", '"x"', "[]"])
def test_event_with_an_impossible_place_is_no_event(index: str) -> None:
    event = {"type": "content_block_start", "content_block": {"type": "text"}, "index": json.loads(index)}
    with pytest.raises(ValueError, match="cannot come here"):
        Message().add(event)


@pytest.mark.parametrize("kind", ["message", "error"])
async def test_stream_that_repeats_our_key_is_passed_on_without_it(doors: Doors, kind: str) -> None:
    start = {"type": "message", "model": MODEL, "usage": {"input_tokens": 1}}
    text = {"type": "text_delta", "text": f"the key {OURS}"}
    events: list[dict[str, object]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": text},
        {"type": "message_stop"},
    ]
    if kind == "error":
        events[1:] = [{"type": "error", "error": {"type": "authentication_error", "message": OURS}}]
    words = "".join(f"event: e\ndata: {json.dumps(event)}\n\n" for event in events).encode()
    api = CannedApi(
        b"HTTP/1.1 200 OK\r\nrequest-id: %b\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n%b"
        % (OURS.encode(), words)
    )
    said: list[bytes] = []

    async def work() -> None:
        async with doors.open(api.url) as at, at.knock() as knocker:
            await knocker.begin("POST", "/v1/messages", asked("x", stream=True), connection="close")
            said.append(await knocker.rest())

    async with api.open():
        with suppress(ProviderRefused):
            await work()
    assert b"[hidden]" in said[0]
    assert OURS.encode() not in said[0]
    assert OURS not in str(doors.log.events)


async def test_what_costs_nothing_has_a_rate_of_its_own(
    doors: Doors, shared: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "FREE_BURST", 3)
    monkeypatch.setattr(proxy, "FREE_EVERY_S", 1000.0)
    count = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    async with doors.open(shared) as at:
        for _ in range(3):
            assert (await at.ask("POST", "/v1/messages/count_tokens", count))[0] == 200
        before = len(shared.requests())
        with trio.move_on_after(0.3) as patience:
            await at.ask("GET", "/v1/models")
        assert patience.cancelled_caught
        assert (await at.ask("HEAD", "/"))[0] == 200
        assert len(shared.requests()) == before


@pytest.mark.parametrize("depth", [50, 101, 990, 100_000])
def test_input_of_a_tool_that_is_nested_without_end_is_kept_as_text(depth: int) -> None:
    message, text = Message(), "[" * depth + "]" * depth
    call = {"type": "tool_use", "id": "i", "name": "n", "input": {}}
    delta = {"type": "input_json_delta", "partial_json": text}
    message.add({"type": "content_block_start", "index": 0, "content_block": call})
    message.add({"type": "content_block_delta", "index": 0, "delta": delta})
    (block,) = message.content
    assert (block["input"] == text) == (depth > 100)
    assert json.loads(content_of([], message.content))


def test_turn_that_is_nested_too_deeply_is_left_out_of_what_is_kept() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    assert "nested too deeply" in content_of(deep, [])


def test_text_of_a_block_that_is_no_text_ends_nothing() -> None:
    message = Message()
    for text in (5, None, []):
        block = {"type": "text", "text": text}
        message.add({"type": "content_block_start", "index": 0, "content_block": block})
        delta = {"type": "text_delta", "text": "a"}
        message.add({"type": "content_block_delta", "index": 0, "delta": delta})
        assert message.text.endswith("a")
