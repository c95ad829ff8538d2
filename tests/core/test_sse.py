"""Server-sent events are read alike however they are cut, and no byte of them twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.sse import Decoder, Frame

PIECES = st.lists(
    st.sampled_from([b"data: a", b"event: b", b"id: 7", b":", b"x", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n"])
)


@given(PIECES, st.integers(1, 5))
def test_frames_are_the_same_however_they_are_cut(pieces: list[bytes], size: int) -> None:
    words, pieced = b"".join(pieces), Decoder()
    cut = [words[at : at + size] for at in range(0, len(words), size)]
    assert [frame for part in cut for frame in pieced.feed(part)] == Decoder().feed(words)


@given(PIECES)
def test_frames_are_what_stands_between_empty_lines(pieces: list[bytes]) -> None:
    words = b"".join(pieces)
    blocks = words.replace(b"\r\n", b"\n").split(b"\n\n")[:-1]
    datas = [
        "\n".join(line[5:].strip() for line in block.decode().split("\n") if line.startswith("data:"))
        for block in blocks
        if any(line and line != ":" for line in block.decode().split("\n"))
    ]
    assert [frame.data for frame in Decoder().feed(words) if frame.data] == [data for data in datas if data]


def test_long_frame_in_single_bytes_is_read_as_it_comes() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: " + b"x" * 2_000_000) == []
    for _ in range(50_000):  # each would take ten milliseconds if all were looked at again
        decoder.feed(b"y")
    assert decoder.feed(b"\n\n") == [Frame(None, "message", "x" * 2_000_000 + "y" * 50_000)]
