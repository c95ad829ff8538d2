"""Every event that the orchestrator knows, and any that it does not, is one safe line for a person."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.cli.timeline import BAD, GOOD, WARN, describe, duration, plural
from orchestrator.core import events
from orchestrator.core.events import EVENTS

HOSTILE = "\x1b]52;c;x\x07\u202e\r\n"
VERDICT = {
    "gate": "tests",
    "approved": False,
    "message": "3 of 4 failed",
    "round": 2,
    "tests": 4,
    "durationMs": 812.4,
}
PUSH = {"remote": "file:///r", "ref": "refs/heads/agent/t", "old": "", "new": "b" * 40}


def event(name: str, **data: object) -> dict[str, Any]:
    return {"seq": 1, "type": name, "time": "2026-01-31T12:00:00.000Z", "data": data}


KILL = {"reason": "operator", "killedProcesses": 7, "remaining": 0, "elapsedMs": 14.23}
TURN = {"turn": 1, "stopReason": "exit", "exitCode": 3, "durationMs": 61_000, "text": "a\nb"}
RETRY = {"attempt": 2, "at": "2026-01-31T12:00:09.000Z"}
COMMIT = {"commit": "c" * 40, "branch": "agent/t", "files": 1, "additions": 2, "deletions": 0}
RUNNING = {"sandbox": "bubblewrap", "runtime": "command"}


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("agent.phase", {"phase": "preparing", "base": "a" * 40}, "preparing: checks out aaaaaaaaaa"),
        ("agent.phase", {"phase": "landing", "push": PUSH}, "landing: pushes bbbbbbbbbb to agent/t"),
        ("agent.running", RUNNING, "running: command agent in a bubblewrap sandbox"),
        ("agent.turn", TURN, "turn 1 ended: exit status 3 after 1 min 1 s, last words: b"),
        (
            "gate.rejected",
            {"verdict": VERDICT},
            "gate tests REJECTED: 3 of 4 failed (812 ms, round 2)",
        ),
        ("commit.created", COMMIT, "commit: cccccccccc for agent/t: 1 file, +2 -0"),
        ("push.completed", {"push": PUSH}, "pushed: bbbbbbbbbb to agent/t"),
        ("agent.completed", {"reason": "no_changes"}, "COMPLETED: nothing to change, nothing pushed"),
        ("agent.failed", {"reason": "timeout", "error": "too slow"}, "FAILED: timeout: too slow"),
        ("agent.killed", KILL, "KILLED: 7 processes killed, 0 remaining, proven in 14 ms (operator)"),
        ("agent.cleanup", {"leftBehind": ["/x"]}, "left behind: /x"),
        ("task.retry_scheduled", RETRY, "retry: attempt 2 at 2026-01-31T12:00:09.000Z"),
        ("brand.new", {"a": 1, "b": ""}, "brand.new: a=1"),
        ("agent.turn", {"turn": "many"}, "agent.turn: turn=many"),
    ],
)
def test_event_is_said_in_a_few_words(name: str, data: dict[str, Any], said: str) -> None:
    line = describe(event(name, **data))
    assert f"{line.what}: {line.about}" == said


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_every_event_has_words_of_its_own(name: str) -> None:
    silent = {"agent.usage"}  # figures, shown as they are
    line = describe(event(name))
    assert line.what
    assert name in silent or name in _described(), f"{name} has no line in orchestrator/cli/timeline.py"


def _described() -> set[str]:
    from orchestrator.cli import timeline  # noqa: PLC0415 - its table is private on purpose

    return set(timeline._LINES)  # noqa: SLF001


@pytest.mark.parametrize("name", sorted(EVENTS))
@pytest.mark.parametrize("payload", [None, [], "text", {"verdict": 3}, {"phase": HOSTILE, "push": {}}])
def test_event_of_any_shape_gives_a_printable_line(name: str, payload: object) -> None:
    line = describe({"type": name, "data": payload})
    assert line.what.isprintable()
    assert line.about.isprintable()


def test_what_others_wrote_is_escaped_wherever_it_stands() -> None:
    fields = {
        name: HOSTILE
        for kind in EVENTS.values()
        for name in (field.alias or key for key, field in kind.model_fields.items())
    }
    numbers = {
        "turn": 1,
        "durationMs": 1.0,
        "priority": 1,
        "attempt": 1,
        "files": 1,
        "additions": 1,
        "deletions": 1,
    }
    push = {**PUSH, "ref": f"refs/heads/{HOSTILE}", "new": HOSTILE}
    verdict = {**VERDICT, "gate": HOSTILE, "message": HOSTILE}
    killed = {
        "killedProcesses": 1,
        "remaining": 1,
        "elapsedMs": 1.0,
        "leftBehind": [HOSTILE],
        "exitCode": None,
    }
    payload = {**fields, **numbers, **killed, "push": push, "verdict": verdict}
    for name in [*EVENTS, HOSTILE]:
        line = describe(event(name, **payload))
        assert line.what.isprintable(), name
        assert line.about.isprintable(), name


@pytest.mark.parametrize(
    ("name", "data", "tone"),
    [
        ("agent.completed", {"reason": "done", "commit": "a", "branch": "b"}, GOOD),
        ("agent.killed", {"reason": "operator", "remaining": 0}, WARN),
        ("agent.killed", {"reason": "operator", "remaining": 1}, BAD),
        ("gate.passed", {"verdict": {**VERDICT, "approved": True}}, GOOD),
    ],
)
def test_tone_follows_the_meaning(name: str, data: dict[str, Any], tone: str) -> None:
    assert describe(event(name, **data)).tone == tone


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (0.04, "0.0 ms"),
        (9.96, "10.0 ms"),
        (14.2, "14 ms"),
        (1500, "1.5 s"),
        (119_600, "2 min 0 s"),
        (7_320_000, "2 h 2 min"),
    ],
)
def test_durations_are_said_as_people_say_them(ms: float, said: str) -> None:
    assert duration(ms) == said


def test_plurals() -> None:
    assert [plural(1, "process"), plural(2, "process"), plural(0, "file")] == [
        "1 process",
        "2 processes",
        "0 files",
    ]


def test_a_real_event_of_the_core_is_understood() -> None:
    killed = events.AgentKilled.model_validate(
        {
            "taskId": "t",
            "agentId": "a",
            "reason": "operator",
            "killedProcesses": 1,
            "remaining": 0,
            "elapsedMs": 3.0,
        }
    )
    line = describe(event(killed.name, **killed.payload()))
    assert line.about == "1 process killed, 0 remaining, proven in 3.0 ms (operator)"
