"""What the model shall do: a script in the prompt, and the step of it that one request asks for.

A script is data between markers, `<<script {"steps": [...]} >>`, in the first message of a user that holds
one; or `<<script "name" >>`, for one that the API was given at its start. Which step is next is told by the
request alone, by the assistant's messages that it holds: nothing is kept, so a client may crash, resume or
retry as it likes.

    {"steps": [STEP, ...],            one for each turn; after the last one the model says "done"
     "agent": "a-1",                  whose requests these are, in the log and in the counters of faults
     "loop": true,                    start over instead of ending
     "fail_first": FAULT,             with "times": the agent's first requests fail (see `faults`)
     "branches": [{"if": "text", "steps": [...]}]}   other steps from the message on in which a user says this

A STEP is a dict; everything in it may be left out:

    {"say": "text", "say_chars": 100_000, "think": "text",
     "do": ACTION or [ACTION, ...],   see `tools`
     "blocks": [...],                 content blocks, sent as they are
     "stop": "refusal",               any stop reason, instead of tool_use or end_turn
     "stop_details": {...},
     "usage": {"input_tokens": 5, ...},
     "wait_s": 0.5,                   before the answer's head
     "pause_s": 0.1,                  before each event of the stream (or piece, with "dribble_bytes")
     "dribble_bytes": 7,              the stream comes in pieces of that size
     "fault": FAULT}                  with "times": only so often for this agent and step
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

OPEN, CLOSE = "<<script", ">>"

Step = Mapping[str, Any]
Script = Mapping[str, Any]

DONE: Step = {"say": "done"}


class BadScriptError(Exception):
    """The script cannot be read or done; the client gets it as a 400 that says so."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one request asks for: whose it is, the script, and the step."""

    agent: str
    number: int
    step: Step
    script: Script = field(default_factory=dict)


def script(*steps: Step, **more: object) -> str:
    """Return the text that makes the model do these steps, to be put into a prompt."""
    return f"{OPEN} {json.dumps({'steps': steps, **more})} {CLOSE}"


def turn_of(request: Mapping[str, Any], named: Mapping[str, Script], fallback: Script | str | None) -> Turn:
    """Return the turn that a request's body asks for; `named` are the scripts given at the start."""
    messages = request["messages"]
    said = [(place, text) for place, message in enumerate(messages) for text in _said_by_user(message)]
    said += [(0, text) for text in _texts(request.get("system") or "")]
    found, rests = _first_script(said)
    wanted: Any = fallback if found is None else found
    if isinstance(wanted, str):
        if wanted not in named:
            raise BadScriptError(f"no script is called {wanted!r}")
        wanted = {"agent": "", **named[wanted]}
    if wanted is None:
        wanted = {"steps": []}
    if not isinstance(wanted, Mapping) or not isinstance(wanted.get("steps"), list | tuple):
        raise BadScriptError(f"a script is an object with steps, not {wanted!r:.200}")
    steps, began = _branch(wanted, rests)
    number = sum(message.get("role") == "assistant" for message in messages[began:])
    agent = str(wanted.get("agent") or "") or "unnamed-" + _digest(rests[0][1] if rests else "")
    if wanted.get("loop") and steps:
        return Turn(agent, number, steps[number % len(steps)], wanted)
    return Turn(agent, number, steps[number] if number < len(steps) else DONE, wanted)


def _first_script(said: list[tuple[int, str]]) -> tuple[Any, list[tuple[int, str]]]:
    """Return the first script that was said, if any, and what was said beside scripts."""
    found: Any = None
    rests: list[tuple[int, str]] = []
    for place, text in said:
        before, mark, after = text.partition(OPEN)
        if not mark:
            rests.append((place, text))
            continue
        try:
            value, end = json.JSONDecoder().raw_decode(after.lstrip())
        except ValueError as error:
            raise BadScriptError(f"the script is no JSON: {error}") from error
        rest = after.lstrip()[end:].lstrip()
        if not rest.startswith(CLOSE):
            raise BadScriptError(f"the script does not end with {CLOSE}")
        rests.append((place, before + rest.removeprefix(CLOSE)))
        found = value if found is None else found
    return found, rests


def _branch(wanted: Script, rests: list[tuple[int, str]]) -> tuple[list[Step], int]:
    """Return the steps of the last branch whose words were said, and the message they were said in."""
    for branch in reversed(wanted.get("branches", ())):
        for place, text in rests:
            if branch["if"] in text:
                return branch["steps"], place
    return list(wanted["steps"]), 0


def _said_by_user(message: Mapping[str, Any]) -> Iterator[str]:
    if message.get("role") in {"user", "system"}:  # by which newer clients pass on what a user says meanwhile
        yield from _texts(message.get("content") or "")


def _texts(content: object) -> Iterator[str]:
    """Yield the texts of a message's content; what tools returned is none of them."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (str(block.get("text")) for block in content if block.get("type") == "text")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
