"""A model's answer, folded from its events: the same as if it had come whole, and counted when it is cut."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agents.claude.incoming import Incoming
from orchestrator.core.message import Message
from orchestrator.core.trouble import Trouble, failure_of_event, failure_of_response

COUNTS = {
    "input_tokens": 9,
    "output_tokens": 300,
    "cache_read_input_tokens": 2,
    "cache_creation_input_tokens": 3,
    "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 2},
}


def block(index: int, first: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of one block."""
    return [
        {"type": "content_block_start", "index": index, "content_block": first},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def events(*, say: str = "hello") -> list[dict[str, Any]]:
    """Return the events of an answer that thinks, says something, and calls a tool."""
    begun = {"type": "message", "model": "m", "usage": {**COUNTS, "output_tokens": 1}}
    thoughts = [
        {"type": "thinking_delta", "thinking": "so"},
        {"type": "signature_delta", "signature": "s"},
    ]
    words = [{"type": "text_delta", "text": each} for each in say]
    given = [{"type": "input_json_delta", "partial_json": part} for part in ('{"a":', "1}")]
    return [
        {"type": "message_start", "message": begun},
        *block(0, {"type": "thinking", "thinking": "", "signature": ""}, *thoughts),
        *block(1, {"type": "text", "text": ""}, *words),
        *block(2, {"type": "tool_use", "id": "t", "name": "bash", "input": {}}, *given),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 300}},
        {"type": "message_stop"},
    ]


def test_stream_says_what_the_whole_body_says() -> None:
    streamed = Message()
    closed = [streamed.add(event) for event in events()]
    assert [kind for kind in closed if kind] == ["thinking", "text", "tool_use"]
    body = {
        "type": "message",
        "model": "m",
        "stop_reason": "tool_use",
        "usage": COUNTS,
        "content": [
            {"type": "thinking", "thinking": "so", "signature": "s"},
            {"type": "text", "text": "hello"},
            {"type": "tool_use", "id": "t", "name": "bash", "input": {"a": 1}},
        ],
    }
    whole = Message.of_body(json.dumps(body).encode())
    for message in (streamed, whole):
        assert message.content == body["content"]
        assert (message.model, message.stop_reason, message.text) == ("m", "tool_use", "hello")
        assert message.complete
        assert message.spent == message.usage
        assert message.usage.tokens == 314
        assert (message.usage.cache_write_tokens, message.usage.cache_write_1h_tokens) == (3, 2)


def test_answer_that_was_cut_cost_what_was_counted_and_what_was_heard() -> None:
    message = Message()
    assert message.spent.tokens == 0
    for event in events(say="x" * 900)[:-3]:
        message.add(event)
    assert not message.complete
    assert (message.spent.input_tokens, message.spent.output_tokens) == (9, (2 + 900 + 7) // 3)


def test_tool_call_that_is_no_json_is_kept_as_it_came() -> None:
    message = Message()
    for event in events()[:-4]:
        message.add(event)
    assert message.content[2]["input"] == '{"a":'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(sorted({event["type"] for event in events()} | {"x"}))


@given(KINDS, st.dictionaries(st.sampled_from(["message", "index", "content_block", "delta", "usage"]), JSON))
def test_any_other_event_is_a_value_error_or_says_nothing(kind: str, rest: dict[str, Any]) -> None:
    try:
        Message().add({"type": kind, **rest})
    except ValueError:
        return


@given(JSON)
def test_any_other_body_is_a_value_error(body: object) -> None:
    with pytest.raises(ValueError, match="no answer"):
        Message.of_body(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("kind", "trouble"),
    [
        ("overloaded_error", Trouble.OVERLOADED),
        ("rate_limit_error", Trouble.THROTTLED),
        ("authentication_error", Trouble.LOGIN),
        ("billing_error", Trouble.FORBIDDEN),
        ("timeout_error", Trouble.SERVER_ERROR),
        ("not_found_error", Trouble.MODEL),
        ("api_error", Trouble.SERVER_ERROR),
        ("invalid_request_error", Trouble.REQUEST),
        (None, Trouble.SERVER_ERROR),
    ],
)
def test_error_in_a_stream_is_the_same_trouble_as_before_one(kind: str | None, trouble: Trouble) -> None:
    error = {"type": kind, "message": "no"}
    assert failure_of_event(error).trouble is trouble
    words = b"data: " + json.dumps({"type": "error", "error": error}).encode() + b"\n\n"
    failure = Incoming().feed(words)
    assert failure is not None
    assert failure.trouble is trouble


def test_bill_that_is_not_paid_is_the_same_trouble_before_a_stream_as_in_one() -> None:
    before = failure_of_response(402, {}, b"", datetime.now(UTC))
    assert before.trouble is failure_of_event({"type": "billing_error"}).trouble is Trouble.FORBIDDEN
