"""What all streams share, and those of events over SSE; `event_socket` has the WebSocket.

The invariant: an event is encoded once for all its readers, nothing here waits for a slow reader, and every
stream ends when the server does. What a reader gets, and in which order, is `feed`'s.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Self

import trio

from orchestrator.api.feed import Feed, gap_text
from orchestrator.core import sse
from orchestrator.core.events import Recorded
from orchestrator.journal.bus import Gap
from orchestrator.journal.encoding import wire

#: Bytes that go out in one piece.
PIECE_BYTES = 64 * 1024
#: Encoded events that are kept for readers to come: the newest, within both ceilings.
CACHED_EVENTS = 4096
CACHED_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Encoded:
    """An event as it goes out."""

    text: str
    frame: bytes
    #: Bytes of memory that both take.
    size: int


class Streams:
    """What all streams of a server share: the encoded events, and the end."""

    def __init__(self) -> None:
        self._encoded: OrderedDict[int, Encoded] = OrderedDict()
        self._encoded_bytes = 0
        self._waits: set[trio.CancelScope] = set()
        self.ending = False

    def encode(self, recorded: Recorded) -> Encoded:
        """Return the event's bytes, made at most once while it is new."""
        found = self._encoded.get(recorded.seq)
        if found is None:
            text = wire(recorded)
            frame = sse.encode(text.encode(), event=recorded.event.name, frame_id=recorded.seq)
            found = self._encoded[recorded.seq] = Encoded(
                text, frame, sys.getsizeof(text) + sys.getsizeof(frame)
            )
            self._encoded_bytes += found.size
            while len(self._encoded) > CACHED_EVENTS or self._encoded_bytes > CACHED_BYTES:
                self._encoded_bytes -= self._encoded.popitem(last=False)[1].size
        return found

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


class SseBody:
    """The body of an SSE response."""

    def __init__(self, streams: Streams, feed: Feed, *, follow: bool, heartbeat_s: float) -> None:
        self._streams = streams
        self._feed = feed
        self._follow = follow
        self._heartbeat_s = heartbeat_s
        self._pieces: list[bytes] = [sse.encode_cursor(feed.cursor)]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._streams.ending:
                raise StopAsyncIteration
            items: list[Recorded | Gap] = []
            with self._streams.patience(self._heartbeat_s) as scope:
                items = [*await self._feed.replay()] if not self._follow else await self._feed.batch()
            if scope.cancelled_caught:
                self._pieces = [sse.COMMENT]
            elif not items:
                raise StopAsyncIteration
            else:
                self._pieces = _pieces([self._frame(item) for item in items])
        return self._pieces.pop(0)

    def _frame(self, item: Recorded | Gap) -> bytes:
        if isinstance(item, Gap):
            return sse.encode(gap_text(item).encode(), event="gap")
        return self._streams.encode(item).frame

    async def aclose(self) -> None:
        """Give up the place on the bus."""
        self._feed.close()


def _pieces(frames: list[bytes]) -> list[bytes]:
    """Join small frames, so that many events cost one send."""
    pieces: list[bytes] = []
    held: list[bytes] = []
    size = 0
    for frame in frames:
        if held and size + len(frame) > PIECE_BYTES:
            pieces.append(b"".join(held))
            held, size = [], 0
        held.append(frame)
        size += len(frame)
    return [*pieces, b"".join(held)]
