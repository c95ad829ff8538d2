"""A stream of bytes becomes lines of a log, whatever the bytes and wherever they are cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agents.lines import CUT, LineCutter, TurnLog


def cut(*chunks: bytes, max_line_bytes: int = 64) -> list[str]:
    cutter = LineCutter(max_line_bytes)
    return [line for chunk in chunks for line in cutter.feed(chunk)] + cutter.finish()


def test_lines_end_at_line_feeds_and_the_last_needs_none() -> None:
    assert cut(b"a\nb", b"c\n\nd") == ["a", "bc", "", "d"]
    assert cut(b"a\r\nb\r", b"\nc\r\n") == ["a", "b", "c"]
    assert cut() == []


def test_progress_drawn_over_and_over_leaves_its_last_state() -> None:
    assert cut(b"\r10%\r20%", b"\r100%\ndone\n") == ["100%", "done"]
    assert cut(*[b"\r%d%%" % n for n in range(1000)]) == ["999%"]


def test_giant_line_is_cut_once_with_a_mark() -> None:
    assert cut(b"x" * 50, b"x" * 50, b"x" * 500, b"\nafter\n") == ["x" * 64 + CUT, "after"]
    assert cut(b"x" * 1000) == ["x" * 64 + CUT]


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert cut(b"\xff\xfe a\x00b \xc3", b"\xa9\n") == ["\ufffd\ufffd a\ufffdb é"]


@given(st.lists(st.text("ab\n", max_size=20)))
def test_cuts_between_chunks_do_not_matter(parts: list[str]) -> None:
    chunks = [part.encode() for part in parts]
    assert cut(*chunks) == cut(b"".join(chunks))


async def test_log_of_a_turn_is_bounded_in_bytes_and_marked_once() -> None:
    lines: list[tuple[str, str]] = []

    async def output(stream: str, line: str) -> None:
        lines.append((stream, line))

    log = TurnLog(output, max_bytes=10)
    for _ in range(5):
        await log.add("stdout", b"1234\n")
    await log.finish()
    assert [stream for stream, _ in lines] == ["stdout", "stdout", "system"]


async def test_unfinished_lines_of_both_streams_are_logged_at_the_end() -> None:
    lines: list[tuple[str, str]] = []

    async def output(stream: str, line: str) -> None:
        lines.append((stream, line))

    log = TurnLog(output)
    await log.add("stdout", b"a")
    await log.add("stderr", b"b")
    await log.finish()
    assert lines == [("stdout", "a"), ("stderr", "b")]
