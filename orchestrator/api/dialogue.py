"""A WebSocket on which both sides speak at once: a child hears the client while things go out to it.

The invariant: whoever ends it, the client is told by a close code first, and what was sent before can still
be read. What is said and heard is of those who make a `Dialogue`: `event_socket` of events, `terminal` of
a screen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import trio
from quart import Websocket

from orchestrator.api.stream import Streams

#: Seconds that a client has to answer a close.
CLOSE_S = 1.0
#: What a close's frame has room for, and a little less.
MAX_REASON_BYTES = 120


class Close(NamedTuple):
    """How a dialogue ends: the WebSocket's close code, and why, which `telling` cuts to a frame's room."""

    code: int
    reason: str

    @classmethod
    def telling(cls, code: int, why: object) -> Close:
        """Return an end with as much of `why` as can be told."""
        return cls(code, str(why).encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore"))


GOING_AWAY = Close(1001, "the orchestrator is going down")
#: Close codes: all was said; binary where text is read; what is not understood; too much.
ENDED, NOT_TEXT, REFUSED, FULL = 1000, 1003, 1008, 1013


class Dialogue(ABC):
    """One WebSocket, made for one client."""

    def __init__(self, websocket: Websocket, streams: Streams) -> None:
        self._websocket = websocket
        self._streams = streams
        self._wait: trio.CancelScope | None = None
        self._refused: Close | None = None

    @abstractmethod
    async def next(self) -> Iterable[str | bytes] | Close:
        """Wait for what is to be told next, or for the end; may be cut, and is then asked again."""

    @abstractmethod
    def hear(self, said: str | bytes) -> Close | None:
        """Do what the client asks; return how it is refused, if it is."""

    async def tell(self, message: str | bytes) -> None:
        """Send a message."""
        await self._websocket.send(message)
        # A send after the client left returns at once, so who sends must let others run.
        await trio.lowlevel.checkpoint()

    def wake(self) -> None:
        """Cut the wait for what is next: something else is."""
        if self._wait is not None:
            self._wait.cancel()

    async def run(self) -> None:
        """Serve until there is no more to tell, the client leaves or is refused, or the server goes down."""
        await self._websocket.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            close = await self._speak()
            await self._websocket.close(*close)
            # Its own close comes back as a disconnect, which cancels this; closing the connection before
            # would throw away what the client has not read yet.
            with trio.move_on_after(CLOSE_S):
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()

    async def _speak(self) -> Close:
        while True:
            told: Iterable[str | bytes] | Close = ()
            with self._streams.patience() as self._wait:
                if self._refused is None:
                    told = await self.next()
            if (refused := self._refusal()) is not None:
                return refused
            if self._streams.ending:
                return GOING_AWAY
            if isinstance(told, Close):
                return told
            for message in told:
                await self.tell(message)

    def _refusal(self) -> Close | None:
        return self._refused

    async def _listen(self) -> None:
        while self._refused is None:
            self._refused = self.hear(await self._websocket.receive())
        self.wake()
