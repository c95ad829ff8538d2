"""Server-sent events as bytes: written by `api`, read by `client`; both by the door to a model.

Only what the HTML standard's event stream needs here: `id`, `event`, `data`, and comments; lines end with LF
or CRLF.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Bytes of one frame that a reader takes; more is an error of the sender.
MAX_FRAME = 4 * 1024 * 1024

_END = re.compile(rb"\r?\n\r?\n")
#: Of the end of a frame, the bytes that may have come already.
_END_BYTES = 3

COMMENT = b":\n\n"


@dataclass(frozen=True, slots=True)
class Frame:
    """One dispatched block of the stream; a block with an id alone only moves the cursor."""

    id: str | None
    event: str
    data: str


def encode(data: bytes, *, event: str | None = None, frame_id: int | None = None) -> bytes:
    """Return one frame; `data` is one line of JSON."""
    head = b"" if frame_id is None else b"id: %d\n" % frame_id
    kind = b"" if event is None else b"event: " + event.encode() + b"\n"
    return head + kind + b"data: " + data + b"\n\n"


def encode_cursor(seq: int) -> bytes:
    """Return a frame that dispatches nothing and only tells the reader where it stands."""
    return b"id: %d\n\n" % seq


class Decoder:
    """Turns the chunks of a stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        #: Up to where no frame ends: no byte is looked at twice, however small the chunks are.
        self._seen = 0

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the frames that are complete now; raise ValueError where one is too long."""
        self._buffer += chunk
        frames, start, at = [], 0, self._seen
        while end := _END.search(self._buffer, at):
            block = bytes(self._buffer[start : end.start()]).replace(b"\r\n", b"\n")
            start = at = end.end()
            if (frame := _frame(block)) is not None:
                frames.append(frame)
        del self._buffer[:start]
        if len(self._buffer) > MAX_FRAME:
            raise ValueError(f"a frame of more than {MAX_FRAME} bytes")
        self._seen = max(0, len(self._buffer) - _END_BYTES)
        return frames


def _frame(block: bytes) -> Frame | None:
    fields: dict[str, str] = {}
    data: list[str] = []
    for line in block.decode("utf-8", "replace").split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name:
            fields[name] = value
    if not fields and not data:
        return None
    return Frame(fields.get("id"), fields.get("event", "message"), "\n".join(data))
