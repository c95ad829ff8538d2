"""Whatever a client of the door asks for is let through or refused, and never anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agents.asked import (
    MAX_CONTENT,
    Refused,
    content_of,
    find_way,
    read_body,
    shown_headers,
)
from tests.agents.doors import MODEL, asked

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("role", "content", "type", "source", "data", "name")
BLOCK = st.recursive(
    JSON | st.sampled_from(["image", "document", "base64", "url", "assistant", "tool_use"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
)
MESSAGES = st.lists(st.dictionaries(st.sampled_from(KEYS), BLOCK), max_size=4)
#: A good request, in which a few things are something else.
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "messages": MESSAGES,
        "tools": st.lists(st.dictionaries(st.sampled_from(KEYS), BLOCK)),
        **dict.fromkeys(("model", "max_tokens", "stream", "mcp_servers", "speed", "system"), JSON),
    },
)


def judged(body: object) -> int:
    """Return 200 for a request that is let through, else the status of its refusal."""
    try:
        wanted = read_body(json.dumps(body).encode(), [MODEL])
    except Refused as refused:
        return refused.status
    return 200 if wanted.request.model == MODEL and wanted.request.max_tokens > 0 else 0


@given(CHANGES)
def test_any_request_is_let_through_or_refused(changes: dict[str, Any]) -> None:
    assert judged({**asked("x"), **changes}) in {200, 400, 403, 413}


@given(JSON)
def test_any_json_is_refused(body: object) -> None:
    assert judged(body) in {400, 403}


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        read_body(body, [MODEL])


@given(st.text(max_size=10), st.text(max_size=80))
def test_any_other_path_is_refused(method: str, target: str) -> None:
    with pytest.raises(Refused):
        find_way(method, target, [MODEL])


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20))))
def test_headers_that_could_be_credentials_are_not_shown(headers: list[tuple[str, str]]) -> None:
    risky = [("x-api-key", "A"), ("authorization", "B"), ("cookie", "C"), ("proxy-authorization", "D")]
    shown = shown_headers([*headers, *risky, ("accept", "x")])
    assert shown["accept"] == "x"
    assert not {name for name, _ in risky} & shown.keys()


def estimate(**more: object) -> int:
    return read_body(json.dumps(asked("x", **more)).encode(), [MODEL]).request.input_tokens


def test_estimate_of_a_prompt_is_above_what_it_has() -> None:
    text = "word " * 10_000
    assert 10_000 < estimate(messages=[{"role": "user", "content": text}]) < 30_000


def test_picture_counts_as_a_picture_and_not_as_its_bytes() -> None:
    def picture(data: str) -> list[dict[str, Any]]:
        source = {"type": "base64", "media_type": "image/png", "data": data}
        return [{"role": "user", "content": [{"type": "image", "source": source}]}]

    assert estimate(messages=picture("A" * 3_000_000)) == estimate(messages=picture("A")) < 6000


def test_news_are_what_was_said_since_the_last_answer() -> None:
    messages = [
        {"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))
    ]
    wanted = read_body(json.dumps(asked("x", messages=messages)).encode(), [MODEL])
    assert wanted.news == messages[2:]
    answer = [{"type": "text", "text": "d"}]
    assert json.loads(content_of(wanted.news, answer)) == [
        messages[2],
        {"role": "assistant", "content": answer},
    ]


@pytest.mark.parametrize(("news", "answer"), [(10**6, 5), (5, 10**6), (10**6, 10**6)])
def test_what_is_kept_of_a_turn_has_an_end(news: int, answer: int) -> None:
    said = content_of([{"role": "user", "content": "x" * news}], [{"type": "text", "text": "y" * answer}])
    assert len(said) <= MAX_CONTENT
    assert "characters that are not kept" in said
    assert ("y" * answer in said) == (answer < MAX_CONTENT)
