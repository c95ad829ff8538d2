"""Streams of events over SSE and WebSocket.

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
from quart import Websocket

from orchestrator.api import problem
from orchestrator.api.feed import Feed, Message, Subscribe, Wanted, gap_text
from orchestrator.api.route import validate_body
from orchestrator.api.strict_json import parse_object
from orchestrator.core import sse
from orchestrator.core.events import Recorded
from orchestrator.journal.bus import Gap
from orchestrator.journal.encoding import wire
from orchestrator.journal.store import Store

#: Bytes that go out in one piece.
PIECE_BYTES = 64 * 1024
#: Encoded events that are kept for readers to come: the newest, within both ceilings.
CACHED_EVENTS = 4096
CACHED_BYTES = 32 * 1024 * 1024

#: Seconds that a client has to answer a close.
CLOSE_S = 1.0

GOING_AWAY, NOT_TEXT, REFUSED = 1001, 1003, 1008


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


class Socket:
    """One WebSocket: a child reads what the client asks for, and the events go out beside it."""

    def __init__(self, websocket: Websocket, store: Store, streams: Streams, capacity: int) -> None:
        self._websocket = websocket
        self._store = store
        self._streams = streams
        self._capacity = capacity
        self._wait: trio.CancelScope | None = None
        self._refused: tuple[int, str] | None = None
        self._feed: Feed | None = None

    async def run(self, wanted: Wanted) -> None:
        """Serve until the client leaves, is refused, or the server goes down."""
        self._feed = Feed.of(self._store, wanted, wanted.after, self._capacity)
        try:
            await self._websocket.accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                code, reason = await self._write()
                await self._websocket.close(code, reason)
                # Its own close comes back as a disconnect, which cancels this; closing the connection before
                # would throw away what the client has not read yet.
                with trio.move_on_after(CLOSE_S):
                    await trio.sleep_forever()
                nursery.cancel_scope.cancel()
        finally:
            self._feed.close()

    async def _write(self) -> tuple[int, str]:
        """Send events; return with which code to close."""
        while True:
            items: list[Recorded | Gap] = []
            with self._streams.patience() as self._wait:
                if self._refused is None and self._feed is not None:
                    items = await self._feed.batch()
            if (refused := self._refusal()) is not None:
                return refused
            if self._streams.ending:
                return GOING_AWAY, "the orchestrator is going down"
            feed = self._feed
            for item in items:
                if feed is not self._feed:
                    break  # the client has asked for something else meanwhile
                text = gap_text(item) if isinstance(item, Gap) else self._streams.encode(item).text
                await self._websocket.send(text)
                # A send after the client left returns at once, so this loop must let others run.
                await trio.lowlevel.checkpoint()

    def _refusal(self) -> tuple[int, str] | None:
        return self._refused

    async def _read(self) -> None:
        while True:
            data = await self._websocket.receive()
            if not isinstance(data, str):
                self._refused = (NOT_TEXT, "only text is read here")
            else:
                try:
                    self._subscribe(validate_body(Message, parse_object(data.encode())).subscribe)
                except (problem.RequestRefused, UnicodeEncodeError) as error:
                    self._refused = (REFUSED, str(error)[:100])
            if self._wait is not None:
                self._wait.cancel()
            if self._refused is not None:
                return

    def _subscribe(self, asked: Subscribe) -> None:
        old = self._feed
        after = asked.after if asked.after is not None else (old.cursor if old else None)
        self._feed = Feed(
            self._store,
            after=after,
            types=asked.names,
            agent_id=asked.agent_id,
            task_id=asked.task_id,
            capacity=self._capacity,
        )
        if old is not None:
            old.close()
