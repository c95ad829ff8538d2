"""What is sent again to a model: the same after a restart, whole pairs of calls and results, and bounded."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.agents.claude.conversation import (
    CLEARED,
    DROPPED,
    KEPT_MESSAGES,
    TRIM_TOKENS,
    Conversation,
)
from tests.kit.messages.checks import wrong_with_request

LONG = "x" * 4000


def entry(
    number: int, *, tokens: int, prompt: int = 1, said: str = "", calls: int = 1, stop: str = ""
) -> str:
    blocks = [
        {"type": "tool_use", "id": f"t{number}-{call}", "name": "bash", "input": {"command": "ls"}}
        for call in range(calls)
    ]
    return json.dumps(
        {
            "said": [{"type": "text", "text": said}] if said else [],
            "answer": [{"type": "text", "text": f"answer {number}"}, *blocks],
            "stop": stop or ("tool_use" if calls else "end_turn"),
            "malformed": {},
            "tokens": tokens,
            "prompt": prompt,
        }
    )


def results(number: int, calls: int = 1, text: str = LONG) -> str:
    return json.dumps(
        {
            "results": [
                {"type": "tool_result", "tool_use_id": f"t{number}-{call}", "content": text}
                for call in range(calls)
            ]
        }
    )


def wrong_with(messages: list[dict[str, Any]]) -> object:
    """Say what the API would find wrong."""
    body = {"model": "m", "max_tokens": 1, "messages": messages}
    return wrong_with_request({"anthropic-version": "1"}, body, None, counts=False)


def plain(talk: Conversation) -> str:
    return json.dumps(talk.messages()).replace(', "cache_control": {"type": "ephemeral"}', "")


def story(turns: int, tokens: int, calls: int = 1) -> list[str]:
    told = []
    for number in range(turns):
        told.append(entry(number, tokens=tokens, said="the task" if number == 0 else "", calls=calls))
        told.append(results(number, calls))
    return told


def test_oldest_results_are_left_out_first_and_what_was_asked_never() -> None:
    whole = Conversation.restored(story(40, TRIM_TOKENS))
    short = Conversation.restored([*story(40, TRIM_TOKENS), entry(40, tokens=TRIM_TOKENS + 1)])
    assert CLEARED not in plain(whole)
    messages = short.messages()
    assert messages[0]["content"][0]["text"] == "the task"
    assert messages[2]["content"][0]["content"] == CLEARED
    assert all(
        LONG in json.dumps(message) for message in messages[-KEPT_MESSAGES:] if message["role"] == "user"
    )
    assert DROPPED not in plain(short)
    assert short.input_tokens(0) < TRIM_TOKENS


def test_whole_exchanges_are_left_out_where_results_are_not_enough_and_prompts_stay() -> None:
    told = []
    for number in range(60):
        told.append(
            entry(number, tokens=1000, prompt=1 + number // 20, said=f"prompt {number}" * (number % 20 == 0))
        )
        told.append(results(number, text="short"))
    talk = Conversation.restored([*told, entry(60, tokens=TRIM_TOKENS * 2)])
    assert DROPPED in plain(talk)
    assert (
        wrong_with([*talk.messages(), {"role": "user", "content": json.loads(results(60))["results"]}])
        is None
    )
    for prompt in ("prompt 0", "prompt 20"):
        assert prompt in plain(talk)
    assert len(talk.messages()) < 60


def test_an_answer_of_thoughts_alone_is_not_sent_back() -> None:
    thought = json.loads(entry(0, tokens=10, said="hi", calls=0, stop="max_tokens"))
    thought["answer"] = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
    talk = Conversation.restored([json.dumps(thought)])
    talk.say("go on")
    assert [message["role"] for message in talk.messages()] == ["user"]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1000, 2 * TRIM_TOKENS), st.integers(0, 9000)), max_size=30
    )
)
def test_every_conversation_is_valid_and_the_same_after_a_restart(
    turns: list[tuple[int, int, int]],
) -> None:
    told: list[str] = []
    talk = Conversation()
    for number, (calls, tokens, size) in enumerate(turns):
        said = "" if number and turns[number - 1][0] else f"said {number}"
        one = entry(number, tokens=tokens, said=said, calls=calls)
        told.append(one)
        talk.take(json.loads(one))
        if calls:
            told.append(results(number, calls, "y" * (size + 1)))
            talk.take_results(json.loads(told[-1])["results"])
        assert plain(Conversation.restored(told)) == plain(talk)
        if talk.waits:
            assert wrong_with(talk.messages()) is None
            assert talk.messages()[0]["content"][0]["text"] == "said 0"
            assert json.dumps(talk.messages()).count("cache_control") <= 2
