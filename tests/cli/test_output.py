"""Tables and lines for people, JSON for programs, colour for terminals."""

from __future__ import annotations

import io
import json
import os
import pty
from datetime import UTC, datetime

import pytest

from orchestrator.cli.failure import Failed
from orchestrator.cli.output import Output, age, shown

HOSTILE = "\x1b[31m\u202e[red]x[/red] :smile:"
ESCAPED = "\\x1b[31m\\u202e[red]x[/red] :smile:"


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_table_in_a_file_is_whole_and_without_colour_or_litter() -> None:
    stream = io.StringIO()
    long = "x" * 400
    Output(as_json=False, stream=stream).table(("agent", "task"), [("a" * 36, long), ("b" * 36, "failed")])
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == ["agent", "task"]
    assert lines[1] == f"{'a' * 36}  {long}"
    assert lines[2] == f"{'b' * 36}  failed"
    assert "\x1b" not in stream.getvalue()


def test_table_escapes_what_others_wrote_and_reads_no_markup() -> None:
    stream = io.StringIO()
    Output(as_json=False, stream=stream).table(("branch", "x"), [(HOSTILE, HOSTILE)])
    assert stream.getvalue().splitlines()[1] == f"{ESCAPED:<36}  {ESCAPED}"


@pytest.mark.parametrize("colour", ["NO_COLOR", ""])
def test_colour_is_for_terminals_that_want_it(colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if colour:
        monkeypatch.setenv(colour, "1")
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        Output(as_json=False, stream=stream).line(("good", "green"), f" {HOSTILE}")
    assert ("\x1b[32m" in terminal.getvalue()) is not bool(colour)
    assert terminal.getvalue().endswith(f" {ESCAPED}\n")
    assert file.getvalue() == f"good {ESCAPED}\n"


def test_forced_colour_does_not_reach_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    Output(as_json=False, stream=stream).line(("good", "green"))
    assert stream.getvalue() == "good\n"


def test_lines_are_never_wrapped() -> None:
    for stream in (Terminal(), io.StringIO()):
        Output(as_json=False, stream=stream).line("word " * 200)
        assert stream.getvalue().count("\n") == 1


def test_json_is_one_line_and_ascii() -> None:
    stream = io.StringIO()
    Output(as_json=True, stream=stream).json({"error": HOSTILE})
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().isascii()
    assert json.loads(stream.getvalue()) == {"error": HOSTILE}


def test_diff_is_coloured_by_its_lines_and_escaped() -> None:
    stream = io.StringIO()
    Output(as_json=False, stream=stream).diff(f"+++ b/x\n@@ -1 +1 @@\n-a\n+{HOSTILE}\n")
    assert stream.getvalue() == f"+++ b/x\n@@ -1 +1 @@\n-a\n+{ESCAPED}\n"


def test_raw_text_is_exact_and_never_for_a_terminal() -> None:
    stream = io.StringIO()
    Output(as_json=False, stream=stream).raw("+a\r\n\x1b")
    assert stream.getvalue() == "+a\r\n\x1b"
    leader, follower = pty.openpty()
    with os.fdopen(leader), os.fdopen(follower, "w") as terminal, pytest.raises(Failed):
        Output(as_json=False, stream=terminal).raw("x")


def test_fields_leave_out_what_is_empty() -> None:
    stream = io.StringIO()
    Output(as_json=False, stream=stream).fields(
        [("agent", "a"), ("error", None), ("paused", False), ("n", 0)]
    )
    assert stream.getvalue() == "agent   a\npaused  no\nn       0\n"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "-"),
        (True, "yes"),
        (1.25, "1.2"),
        ([], "-"),
        (["a", 1], "a, 1"),
        ({"a": None}, "a -"),
        (3, "3"),
    ],
)
def test_values_are_shown_as_people_read_them(value: object, said: str) -> None:
    assert shown(value) == said


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("2026-01-31T12:00:00.000Z", "0 s"),
        ("2026-01-31T11:59:18.000Z", "42 s"),
        ("2026-01-31T11:00:00.000Z", "1 h"),
        ("2026-01-28T11:00:00.000Z", "3 d"),
        ("2027-01-28T11:00:00.000Z", "0 s"),
        (None, "-"),
        ("soon", "soon"),
    ],
)
def test_age(moment: str | None, said: str) -> None:
    assert age(moment, datetime(2026, 1, 31, 12, tzinfo=UTC)) == said
