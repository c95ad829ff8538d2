"""What an agent's program shows: as a screen that is kept, and tamed for a person's terminal."""

from __future__ import annotations

import re

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agents.painting import paint
from orchestrator.agents.screen import Screen
from orchestrator.agents.signs import KNOWN_MODES, Signs
from orchestrator.core.escapes import MAX_STRING, Tokens
from orchestrator.core.tame import Tamer

#: Pieces of sequences, so that what is drawn from them is often one.
PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            b"\x1b [ ] ? 52;c; 1049 h l m n c \x07 \x1b\\ P 6n ; 99999 H \x18 \xc3 \xa9 \x9b x \n t".split(
                b" "
            )
        ),
        st.binary(max_size=6),
    ),
    max_size=60,
).map(b"".join)

#: Sequences that a terminal answers, or that reach beyond the screen.
DANGEROUS = re.compile(
    rb"\x1b[\]PX^_]|\x1b\[[0-9;]*[nct]|\x1b\[[<=>]|\x1b\[\?[0-9;]*[^0-9;hl]|[\x00-\x06\x10-\x1a\x1c-\x1f\x7f]|\xc2[\x80-\x9f]|\x1bc"
)


@pytest.mark.parametrize(
    ("shown", "tame"),
    [
        (b"plain \xc3\xa9\r\n", "plain é\r\n".encode()),
        (b"\x1b[1;31mred\x1b[0m\x1b[2J\x1b[3;4H", b"\x1b[1;31mred\x1b[0m\x1b[2J\x1b[3;4H"),
        (b"a\x1b]52;c;ZXZpbA==\x07b\x1b]0;title\x1b\\c", b"abc"),
        (b'a\x1bP$q"p\x1b\\b\x1b_G\x1b\\c', b"abc"),
        (b"\x1b[6n\x1b[c\x1b[>c\x1b[21t\x1b[?6n\x1b[5n\x1bZ", b""),
        (b"\x1b[>4;2m\x1b[=5u\x1b[<u\x1b[?2026$p", b""),
        (b"\x1b[?1049h\x1b[?1049;25l", b"\x1b[?1049h\x1b[?25l\x1b[?1049l"),
        (b"\x1b[?9999;1h\x1b[12h", b"\x1b[?1h"),
        (b"\x1b[3J\x1bc", b"\x1b[0m\x1b[r\x1b[2J\x1b[H"),
        (b"\xff\xfe", "\ufffd\ufffd".encode()),
        (b"\xe2\x80\xaeabc\xc2\x9b6n", b"abc6n"),
        (b"\x1b[" + b"1;" * 999 + b"mz", b"z"),
        (b"\x1b]0;" + b"t" * 99_999 + b"\x07z", b"z"),
        (b"\x1b(0qqq\x1b(B\x0e\x0f", b"\x1b(0qqq\x1b(B\x0e\x0f"),
    ],
)
def test_what_draws_passes_and_all_else_is_dropped(shown: bytes, tame: bytes) -> None:
    assert Tamer().feed(shown) == tame
    whole = Tamer()
    assert b"".join(whole.feed(bytes([byte])) for byte in shown) == tame, "cut anywhere"


@given(PIECES)
def test_nothing_dangerous_passes_whatever_is_sent(data: bytes) -> None:
    tamer = Tamer()
    tame = tamer.feed(data) + tamer.farewell()
    assert not DANGEROUS.search(tame), tame


@given(PIECES, st.integers(0, 200))
def test_farewell_takes_back_every_mode(data: bytes, cut: int) -> None:
    tamer = Tamer()
    signs = Signs()
    signs.note(Tokens().feed(tamer.feed(data[:cut]) + tamer.farewell()))
    assert signs.modes == {25}
    screen = Screen(80, 24)
    tokens = Tokens()
    again = Tamer()
    screen.apply(tokens.feed(again.feed(data[:cut])))
    screen.apply(tokens.feed(again.farewell()))
    assert len(list(screen.pictures())) == 1, "the main screen is shown"
    assert screen.cursor.attrs == screen.default_char
    assert screen.margins is None


@given(PIECES)
def test_screen_takes_anything_and_its_picture_draws_the_same(data: bytes) -> None:
    screen, tokens, signs = Screen(20, 6), Tokens(), Signs()
    found = tokens.feed(data)
    screen.apply(found)
    signs.note(found)
    again = Screen(20, 6)
    again.apply(Tokens().feed(b"rubbish\x1b[3;4r\x1b[?1049h" + paint(screen, signs.modes, KNOWN_MODES)))
    assert again.rows() == screen.rows()


@given(st.binary(max_size=300))
def test_text_and_cursor_are_those_of_the_library(data: bytes) -> None:
    plain = bytes(byte for byte in data if byte < 0x7F and (byte >= 0x20 or byte in b"\r\n\b"))
    ours, theirs = Screen(20, 6), pyte.Screen(20, 6)
    ours.apply(Tokens().feed(plain))
    pyte.ByteStream(theirs).feed(plain)
    assert ours.rows() == [line.rstrip() for line in theirs.display]
    assert (ours.cursor.x, ours.cursor.y) == (theirs.cursor.x, theirs.cursor.y)


def test_endless_sequences_keep_no_memory() -> None:
    tokens = Tokens()
    for start in (b"\x1b[", b"\x1b]0;", b"\x1bP", b"\x1b[?"):
        tokens.feed(start)
        for _ in range(100):
            assert tokens.feed(b"1;" * 5000) == []
        assert len(tokens.open) <= MAX_STRING
        tokens.feed(b"m\x07")
    assert [token.text for token in tokens.feed(b"z")] == ["z"]


def test_full_size_screen_is_left_through_its_alternate_one() -> None:
    screen = Screen(20, 5)
    screen.apply(Tokens().feed(b"main\x1b[?1049h\x1b[Hother"))
    assert screen.rows()[0] == "other"
    again = Screen(20, 5)
    again.apply(Tokens().feed(paint(screen, frozenset(), KNOWN_MODES)))
    again.apply(Tokens().feed(b"\x1b[?1049l"))
    assert again.rows()[0] == "main"
