"""What all streams share: the events as they go out, and the end.

The invariant: an event is encoded once for all its readers, what goes out together is joined once for all
who stand at the same place, and every stream ends when the server does. What a reader gets, and in which
order, is `feed`'s; how it goes out, `flow`'s.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from orchestrator.api.feed import Feed, gap_text, last_seq
from orchestrator.core import sse
from orchestrator.core.events import Recorded
from orchestrator.journal.bus import Gap
from orchestrator.journal.encoding import wire

#: Bytes that go out in one piece.
PIECE_BYTES = 64 * 1024
#: Encoded events that are kept for readers to come: the newest, within both ceilings.
CACHED_EVENTS = 4096
CACHED_BYTES = 32 * 1024 * 1024
#: Pieces that are kept for readers who stand at the same place.
CACHED_PIECES = 16

#: Makes frames as a server sends them: unmasked and whole, so that the same bytes do for all.
_WEBSOCKET = Connection(ConnectionType.SERVER)


class Form(Enum):
    """How events go out."""

    #: Server-sent events.
    SSE = auto()
    #: The same, each piece as a chunk of an HTTP/1.1 body.
    CHUNKED_SSE = auto()
    #: Messages of a WebSocket.
    WEBSOCKET = auto()

    def join(self, encoded: Iterable[Encoded]) -> bytes:
        """Return events as one piece."""
        if self is Form.WEBSOCKET:
            return b"".join([one.message for one in encoded])
        piece = b"".join([one.frame for one in encoded])
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self is Form.CHUNKED_SSE and piece else piece


@dataclass(frozen=True, slots=True)
class Encoded:
    """An event as it goes out: as a frame of SSE, and as one of a WebSocket."""

    frame: bytes
    message: bytes

    @classmethod
    def of(cls, text: str, *, event: str, seq: int | None = None) -> Self:
        """Return the JSON as it goes out."""
        message = _WEBSOCKET.send(TextMessage(data=text))
        return cls(sse.encode(text.encode(), event=event, frame_id=seq), message)

    @property
    def size(self) -> int:
        """Bytes of memory that it takes."""
        return sys.getsizeof(self.frame) + sys.getsizeof(self.message)


class Streams:
    """What all streams of a server share: the encoded events, and the end."""

    def __init__(self) -> None:
        self._encoded: OrderedDict[int, Encoded] = OrderedDict()
        self._encoded_bytes = 0
        self._pieces: OrderedDict[object, tuple[bytes, int]] = OrderedDict()
        self._waits: set[trio.CancelScope] = set()
        self.ending = False

    def encode(self, item: Recorded | Gap) -> Encoded:
        """Return the bytes of an event, made at most once while it is new, or of a gap."""
        if isinstance(item, Gap):
            return Encoded.of(gap_text(item), event="gap")
        found = self._encoded.get(item.seq)
        if found is None:
            found = Encoded.of(wire(item), event=item.event.name, seq=item.seq)
            self._encoded[item.seq] = found
            self._encoded_bytes += found.size
            while len(self._encoded) > CACHED_EVENTS or self._encoded_bytes > CACHED_BYTES:
                self._encoded_bytes -= self._encoded.popitem(last=False)[1].size
        return found

    def pieces(self, items: Iterable[Recorded | Gap], form: Form) -> Iterator[tuple[bytes, int]]:
        """Return the items joined to pieces, so that many cost one send; each with its last number."""
        joined: list[Encoded] = []
        size = reached = 0
        for item in items:
            joined.append(self.encode(item))
            size, reached = size + len(joined[-1].frame), last_seq(item)
            if size >= PIECE_BYTES:
                yield form.join(joined), reached
                joined, size = [], 0
        if joined:
            yield form.join(joined), reached

    def next_piece(self, feed: Feed, form: Form) -> bytes:
        """Return what a live feed's reader gets next, nothing where there is no more, and move its cursor.

        Readers with equal filters at the same place get the same bytes, joined once.
        """
        key = (form, feed.wanted, feed.cursor, feed.bus.head)
        found = self._pieces.get(key)
        if found is None:
            found = self._pieces[key] = self._join(feed, form)
            if len(self._pieces) > CACHED_PIECES:
                self._pieces.popitem(last=False)
        piece, feed.cursor = found
        return piece

    def _join(self, feed: Feed, form: Form) -> tuple[bytes, int]:
        joined: list[Encoded] = []
        size, reached = 0, feed.cursor
        for item in feed.unread():
            if size >= PIECE_BYTES:
                break
            reached = last_seq(item)
            if feed.wanted.takes(item):
                joined.append(self.encode(item))
                size += len(joined[-1].frame)
        return form.join(joined), reached

    def end(self) -> None:
        """Tell every stream to end."""
        self.ending = True
        for scope in self._waits:
            scope.cancel()

    @contextlib.contextmanager
    def patience(self, seconds: float = math.inf) -> Iterator[trio.CancelScope]:
        """Wait inside for at most this long, and not beyond the end."""
        with trio.move_on_after(seconds) as scope:
            self._waits.add(scope)
            if self.ending:
                scope.cancel()
            try:
                yield scope
            finally:
                self._waits.discard(scope)


async def wait_first(*waits: Callable[[], Awaitable[object]]) -> None:
    """Wait until the first of these is over, and cancel the others."""

    async def wait(one: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
        await one()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        for one in waits:
            nursery.start_soon(wait, one, nursery.cancel_scope)
