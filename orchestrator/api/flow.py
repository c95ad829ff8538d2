"""The way of events to one reader: past the web framework, straight to its connection.

The invariant: what goes out is whole frames, in order; a reader who does not take them holds up nobody, has
one piece waiting and no more, and is cut by its connection's deadline. By the framework's own way, a message
takes many times as long as its bytes do. Made for each reader by `events` and `event_socket`.
"""

from __future__ import annotations

from collections import deque
from typing import Self

from orchestrator.api.connection import Connection
from orchestrator.api.feed import Feed
from orchestrator.api.stream import Form, Streams
from orchestrator.core import sse


class Flow:
    """The pieces that one reader gets, in one form."""

    def __init__(self, streams: Streams, feed: Feed, connection: Connection, form: Form) -> None:
        self.feed = feed
        self._streams = streams
        self._connection = connection
        self._form = form
        self._replayed: deque[tuple[bytes, int]] = deque()
        #: The last sequence number that was given out.
        self.cursor = feed.cursor
        #: Set where another flow takes its place: nothing more is written.
        self.ended = False

    async def next_piece(self) -> bytes:
        """Return what comes next, nothing where that is yet to happen."""
        await self._fill()
        return self._take()

    async def run(self) -> bytes:
        """Write what comes for as long as the client takes it at once; return what it has not taken.

        That must be written before anything else. A cancellation loses nothing.
        """
        while True:
            await self._fill()
            # From here to the writing nobody else has a turn.
            if self.ended:
                return b""
            if not (piece := self._take()):
                await self.feed.bus.wait_past(self.feed.cursor)
            elif rest := self._connection.write_nowait(piece):
                return rest

    async def _fill(self) -> None:
        while not self._replayed and not self.feed.live:
            self._replayed.extend(self._streams.pieces(await self.feed.replay(), self._form))

    def _take(self) -> bytes:
        if self._replayed:
            piece, self.cursor = self._replayed.popleft()
            return piece
        piece = self._streams.next_piece(self.feed, self._form)
        self.cursor = self.feed.cursor
        return piece


class SseRecord:
    """The body of a response that ends where the journal ends now."""

    def __init__(self, streams: Streams, flow: Flow) -> None:
        self._streams = streams
        self._flow = flow
        #: The answer's head must be on its way before anything is written past the framework.
        self._begun = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._begun:
            self._begun = True
            return sse.encode_cursor(self._flow.cursor)
        if not self._streams.ending and (piece := await self.next()):
            return piece
        raise StopAsyncIteration

    async def next(self) -> bytes:
        """Return what the framework sends next, nothing at the end."""
        return await self._flow.next_piece()


class SseBody(SseRecord):
    """The body of one that goes on for as long as its client reads."""

    def __init__(self, streams: Streams, flow: Flow, connection: Connection, heartbeat_s: float) -> None:
        super().__init__(streams, flow)
        self._connection = connection
        self._heartbeat_s = heartbeat_s

    async def next(self) -> bytes:
        """Let events out; return a comment now and then, nothing once the server goes down."""
        while not self._streams.ending:
            rest = b""
            with self._streams.patience(self._heartbeat_s) as scope:
                rest = await self._flow.run()
            if rest:
                await self._connection.write(rest)
            elif scope.cancelled_caught and not self._streams.ending:
                return sse.COMMENT
        return b""
