"""Text of agents and remotes reaches a terminal only as something to read."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.printable import one_line, printable, to_json

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
    assert printable(hostile) == shown


def test_line_feeds_and_tabs_stay_in_text_of_several_lines() -> None:
    assert printable("a\n\tb\r\n", multiline=True) == "a\n\tb\\x0d\n"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    for shown in (printable(text), one_line(text)):
        assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}]


@given(st.text(st.characters(codec="utf-8")))
def test_json_is_ascii_without_controls_and_says_the_same(text: str) -> None:
    written = to_json({text: [text]})
    assert written.isascii()
    assert written.isprintable()
    assert json.loads(written) == {text: [text]}


def test_one_line_folds_white_space_and_is_cut() -> None:
    assert one_line("  a\n\n b\t c ") == "a b c"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"
