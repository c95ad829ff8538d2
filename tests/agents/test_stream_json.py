"""JSON by the line: any size, cut anywhere, and nothing that comes is an error."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agents.stream_json import MAX_SHOWN, LineParser, Noise, Said, parse_line

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.dictionaries(st.text(), VALUES, max_size=4).flatmap(
    lambda data: st.text().map(lambda kind: {**data, "type": kind})
)
CUTS = st.lists(st.integers(0, 400), max_size=8)


def fed(raw: bytes, cuts: list[int], **settings: int) -> list[Said | Noise]:
    """Feed the bytes in pieces, to the end."""
    parser, found = LineParser(**settings), []
    places = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    for start, end in itertools.pairwise(places):
        found += parser.feed(raw[start:end])
    return found + parser.finish()


@given(st.lists(MESSAGES, max_size=5), CUTS, st.booleans())
def test_what_was_said_comes_out_wherever_it_is_cut(
    messages: list[dict[str, object]], cuts: list[int], ended: bool
) -> None:
    raw = "\n".join(json.dumps(message, ensure_ascii=bool(cuts)) for message in messages)
    found = fed((raw + "\n" * ended).encode(), cuts)
    assert found == [Said(str(message["type"]), message) for message in messages]


@given(st.binary(max_size=400), CUTS)
def test_any_bytes_are_lines_and_never_an_error(raw: bytes, cuts: list[int]) -> None:
    found = fed(raw, cuts)
    assert found == fed(raw, [])
    assert len(found) == sum(1 for line in raw.split(b"\n") if line.strip())


@given(st.binary(max_size=300), CUTS, st.integers(1, 40))
def test_a_line_that_is_too_long_is_told_and_the_next_ones_are_read(
    raw: bytes, cuts: list[int], most: int
) -> None:
    last = b'{"type": ""}'
    found = fed(raw + b"\n" + last + b"\n", cuts, max_line_bytes=max(most, len(last)))
    assert found[-1] == Said("", {"type": ""})
    long = [line for line in raw.split(b"\n") if len(line) > max(most, len(last))]
    assert [each.why for each in found if isinstance(each, Noise) and each.why.startswith("a line of")] == [
        f"a line of {len(line)} bytes" for line in long
    ]


def test_a_message_of_twelve_megabytes_passes() -> None:
    text = 'ö\\n"' * 1_200_000
    raw = json.dumps({"type": "user", "message": {"content": text}}).encode() + b"\n"
    assert len(raw) > 12 * 1024 * 1024
    parser, found = LineParser(), []
    for start in range(0, len(raw), 16 * 1024):
        found += parser.feed(raw[start : start + 16 * 1024])
    assert found == [Said("user", {"type": "user", "message": {"content": text}})]


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"type":"a","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"type":"a","x":' + b"9" * 5000 + b"}",
        b'{"type":7}',
        b'{"kind":"a"}',
        b'["type"]',
        b'"type"',
        b"null",
        b"\xff\xfe\x00",
        b'{"type":"a"} {"type":"b"}',
    ],
)
def test_what_is_no_message_is_noise(line: bytes) -> None:
    noise = parse_line(line)
    assert isinstance(noise, Noise)
    assert len(noise.text) <= MAX_SHOWN


@pytest.mark.parametrize("filler", [b"[],", b'"a",', b"1,", b'{"a":1},'])
def test_what_would_take_long_to_parse_is_not_parsed(filler: bytes) -> None:
    line = b'{"type":"user","x":[' + filler * (8 * 1024 * 1024 // len(filler)) + b"0]}"
    noise = parse_line(line)
    assert isinstance(noise, Noise)
    assert noise.why.endswith("too many parts")


def test_what_is_not_utf_8_is_replaced() -> None:
    assert parse_line(b'{"type":"a","b":"\xff"}') == Said(
        "a", {"type": "a", "b": "\N{REPLACEMENT CHARACTER}"}
    )
