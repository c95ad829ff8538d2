"""What others wrote reaches a log, a terminal and a prompt only as something to read."""

from __future__ import annotations

import logging
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.text import cleaned, escaped
from orchestrator.logline import ConsoleLine, JsonLine

OSC_52 = "\x1b]52;c;cm0gLXJmIH4K\x07"


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("plain [bold]text[/bold] :smile:", "plain [bold]text[/bold] :smile:"),
        ("Grüße, 世界 🎉 é", "Grüße, 世界 🎉 é"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        (OSC_52, "\\x1b]52;c;cm0gLXJmIH4K\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("\x9d0;title\x9c", "\\x9d0;title\\x9c"),
        ("line\r\x1b[2Kover", "line\\x0d\\x1b[2Kover"),
        ("back\x08space \x7f \x00", "back\\x08space \\x7f \\x00"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("\u2066x\u2069 \u200b\u200d\ufeff\u061c", "\\u2066x\\u2069 \\u200b\\u200d\\ufeff\\u061c"),
        ("two\nlines\tand\u2028more\u2029", "two\\x0alines\\x09and\\u2028more\\u2029"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("lone \ud800", "lone \\ud800"),
    ],
)
def test_hostile_text_is_shown_and_not_obeyed(hostile: str, shown: str) -> None:
    assert escaped(hostile) == shown


def test_line_feeds_and_tabs_stay_in_text_of_several_lines() -> None:
    assert escaped("a\n\tb\r\n", keep="\n\t") == "a\n\tb\\x0d\n"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    for shown in (escaped(text), cleaned(text).translate({9: None, 10: None})):
        assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}]


def record_of(message: str, **extra: object) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelname": "WARNING", "created": 0.0, **extra})


def test_record_of_the_log_is_one_line_that_no_terminal_obeys() -> None:
    hostile = record_of("task\n00:00:01 info forged\x1b[2K", branch="a\u202eb\u2028\x9b\x7f\ud800")
    assert ConsoleLine().format(hostile) == (
        "00:00:00 warning task\\x0a00:00:01 info forged\\x1b[2K branch=a\\u202eb\\u2028\\x9b\\x7f\\ud800"
    )
    written = JsonLine().format(hostile)
    assert written.isascii()
    assert written.isprintable()


def test_traceback_in_the_log_keeps_its_lines_and_nothing_else() -> None:
    try:
        raise ValueError("one\ntwo\x1b]52;c;eA==\x07")
    except ValueError:
        shown = ConsoleLine().format(record_of("it failed", exc_info=sys.exc_info()))
    assert shown.startswith("00:00:00 warning it failed\nTraceback")
    assert shown.endswith("one\ntwo\\x1b]52;c;eA==\\x07")
