"""A script in a prompt becomes turns, tool calls and faults, by what the request says alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit.messages import checks, faults, wire
from tests.kit.messages.script import BadScriptError, script, turn_of
from tests.kit.messages.tools import calls_of

OURS = [
    {"type": "bash_20250124", "name": "bash"},
    {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
]
WRITE = {"name": "Write", "input_schema": {"properties": {"file_path": {}, "content": {}}}}
OTHER = {"name": "write_file", "input_schema": {"properties": {"path": {}, "text": {}}}}
SHELL = {"name": "Bash", "input_schema": {"properties": {"command": {}, "timeout": {}}}}


def request(prompt: str, *more: dict[str, Any], **fields: object) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": prompt}, *more], **fields}


def answer(text: str = "x") -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def test_step_is_told_by_the_assistant_messages_of_the_request() -> None:
    prompt = "do " + script({"say": "a >> b"}, {"say": "c"}, agent="a-1") + " please"
    turns = [turn_of(request(prompt, *more), {}, None) for more in ((), (answer(), user("go on")))]
    assert [(turn.agent, turn.number, turn.step["say"]) for turn in turns] == [
        ("a-1", 0, "a >> b"),
        ("a-1", 1, "c"),
    ]
    assert turn_of(request(prompt, *[answer()] * 2), {}, None).step == {"say": "done"}


def test_looping_script_starts_over() -> None:
    prompt = script({"say": "a"}, {"say": "b"}, loop=True)
    assert turn_of(request(prompt, *[answer()] * 4), {}, None).step == {"say": "a"}


def test_named_and_default_scripts_are_found() -> None:
    named = {"greet": {"steps": [{"say": "hello"}]}}
    assert turn_of(request('<<script "greet" >>'), named, None).step == {"say": "hello"}
    assert turn_of(request("no script"), named, "greet").step == {"say": "hello"}
    with pytest.raises(BadScriptError, match="unknown"):
        turn_of(request('<<script "unknown" >>'), named, None)


@pytest.mark.parametrize(
    "prompt", ["<<script {", "<<script {} >>", '<<script {"steps": []}', "<<script 3 >>"]
)
def test_broken_script_is_refused(prompt: str) -> None:
    with pytest.raises(BadScriptError):
        turn_of(request(prompt), {}, None)


def test_branch_is_taken_from_the_message_that_says_its_words() -> None:
    prompt = script(
        {"say": "first"}, branches=[{"if": "rejected", "steps": [{"say": "again"}, {"say": "end"}]}]
    )
    later = (answer(), user("rejected: tests"))
    assert turn_of(request(prompt), {}, None).step == {"say": "first"}
    assert turn_of(request(prompt, *later), {}, None).step == {"say": "again"}
    assert turn_of(request(prompt, *later, answer(), user("x")), {}, None).step == {"say": "end"}
    assert turn_of(request(prompt + " it was rejected"), {}, None).step == {"say": "again"}


@pytest.mark.parametrize(
    ("action", "tools", "call"),
    [
        ({"run": "ls"}, OURS, ("bash", {"command": "ls"})),
        ({"run": "ls"}, [SHELL], ("Bash", {"command": "ls"})),
        ({"write": "a", "text": "t"}, [SHELL, WRITE], ("Write", {"file_path": "/w/a", "content": "t"})),
        ({"write": "a", "text": "t"}, [OTHER], ("write_file", {"path": "a", "text": "t"})),
        (
            {"write": "a", "text": "t"},
            OURS,
            ("str_replace_based_edit_tool", {"command": "create", "path": "a", "file_text": "t"}),
        ),
        (
            {"edit": "a", "old": "o", "new": "n"},
            OURS,
            (
                "str_replace_based_edit_tool",
                {"command": "str_replace", "path": "a", "old_str": "o", "new_str": "n"},
            ),
        ),
        ({"read": "a b"}, [SHELL], ("Bash", {"command": "cat 'a b'"})),
        ({"tool": "any", "input": {"x": 1}}, [], ("any", {"x": 1})),
    ],
)
def test_action_becomes_a_call_of_a_tool_that_is_offered(
    action: dict[str, str], tools: list[dict[str, object]], call: tuple[str, dict[str, object]]
) -> None:
    asked = request("x", system="CWD: /w\nmore", tools=tools)
    assert calls_of({"do": action}, asked) == [(call, None)]


def test_action_that_no_tool_can_do_is_refused() -> None:
    with pytest.raises(BadScriptError, match="no tool of"):
        calls_of({"do": {"run": "ls"}}, request("x", tools=[WRITE]))
    with pytest.raises(BadScriptError, match="an action"):
        calls_of({"do": {"dance": 1}}, request("x", tools=[WRITE]))


def fates(agent: str, seed: int) -> list[int]:
    storm = {
        "seed": seed,
        "most_in_a_row": 2,
        "faults": [{"p": 0.6, "status": 529}, {"p": 0.2, "status": 500}],
    }
    weather = faults.Weather()
    turn = turn_of(request(script({"say": "x"}, agent=agent)), {}, None)
    return [(weather.fault_of(turn, {"storm": storm}) or {}).get("status", 200) for _ in range(100)]


def test_storm_is_the_same_for_a_seed_and_lets_every_agent_through() -> None:
    seen = fates("a", 1)
    assert seen == fates("a", 1)
    assert seen != fates("a", 2)
    assert seen != fates("b", 1)
    assert {200, 500, 529} == set(seen)
    assert not any(200 not in seen[start : start + 3] for start in range(98))


def test_call_without_its_result_is_refused_as_the_real_api_does() -> None:
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "n", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "r"}]}
    headers = {"anthropic-version": "2023-06-01"}

    def wrong(*more: dict[str, Any]) -> str:
        return (checks.wrong_with_request(headers, request("x", *more), None, counts=False) or (0, ""))[1]

    assert wrong(call, result) == ""
    assert "without `tool_result` blocks" in wrong(call, user("go on"))
    assert "unexpected `tool_use_id`" in wrong(result)


def test_changed_thought_is_refused() -> None:
    def wrong(thought: str) -> checks.Wrong | None:
        block = {"type": "thinking", "thinking": thought, "signature": wire.signature("so it is")}
        asked = request("x", {"role": "assistant", "content": [block]}, user("y"))
        return checks.wrong_with_request({"anthropic-version": "1"}, asked, None, counts=False)

    assert wrong("so it is") is None
    assert "Invalid `signature`" in str(wrong("so it is not"))
