"""What the door to the model and the egress proxy share: who listens for an agent, and how clients are left.

The invariant: a connection ends alone, whatever its client does, and none outlives the nursery that it was
given. Callers: `proxy` and `egress`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from orchestrator.agents.inbound import Asked, ClientLeft, Inbound, Unreadable
from sandbox.clock import Clock


class Server(ABC):
    """Answers what an agent's programs ask, over any number of listeners."""

    #: Connections at once; further ones are closed as they come.
    max_connections = 32

    def __init__(self, clock: Clock, nursery: trio.Nursery) -> None:
        self._clock = clock
        self._nursery = nursery
        #: How many there are now.
        self.connections = 0

    def listen_nowait(self, listener: trio.SocketListener) -> None:
        """Serve what connects there, until the listener is closed, or this server."""
        self._nursery.start_soon(self._listen, listener)

    @abstractmethod
    async def answer(self, inbound: Inbound, asked: Asked) -> bool:
        """Answer a request; return whether the connection can go on."""

    @abstractmethod
    async def refuse(self, inbound: Inbound, error: Unreadable) -> None:
        """Answer what is no request."""

    async def _listen(self, listener: trio.SocketListener) -> None:
        try:
            await trio.serve_listeners(self._serve, [listener], handler_nursery=self._nursery)
        except* trio.ClosedResourceError:
            pass  # its sandbox has ended

    async def _serve(self, stream: trio.SocketStream) -> None:
        inbound = Inbound(stream, self._clock)
        self.connections += 1
        try:
            while self.connections <= self.max_connections and (asked := await inbound.ask()) is not None:
                if not await self.answer(inbound, asked):
                    break
        except ClientLeft:
            return
        except Unreadable as error:
            await self.refuse(inbound, error)
        finally:
            self.connections -= 1
            stream.socket.close()


async def watched(
    inbound: Inbound, work: Callable[[], Awaitable[bool]], leave: Callable[[], bool] = lambda: False
) -> bool:
    """Do what a client waits for, and stop where it leaves; return whether the connection can go on.

    `leave` is told first: it returns whether the work ends by itself, soon.
    """
    goes_on = False
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await inbound.wait_left()
            if not leave():
                nursery.cancel_scope.cancel(reason="the client has left")

        nursery.start_soon(watch)
        with suppress(ClientLeft):
            goes_on = await work()
        nursery.cancel_scope.cancel(reason="answered")
    return goes_on
