"""Text of agents and remotes reaches a terminal only as something to read."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.printable import one_line, to_json


@given(st.text())
def test_one_line_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = one_line(text)
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
