"""The one thread in which a Valkey is spoken to: the event loop never waits for it.

The invariant: one call at a time, each within `link.CALL_S`. Used by `valkey` and those it calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

from orchestrator.mirror.address import Address
from orchestrator.mirror.link import Link, open_link

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class MirrorThread:
    """Where links are opened and used."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(1)

    async def open(self, address: Address) -> Link:
        """Connect; raises `MirrorTrouble`. A resolver that takes its time holds up nobody who leaves."""
        return await trio.to_thread.run_sync(
            open_link, address, limiter=self._limiter, abandon_on_cancel=True
        )

    async def try_out(self, address: Address) -> None:
        """Connect, be answered once, and leave; raises `MirrorTrouble`."""
        link = await self.open(address)
        try:
            await self.call(_knock, link)
        finally:
            link.close()

    async def call(self, function: Callable[[Link, *Ts], T], link: Link, *arguments: *Ts) -> T:
        """Say something over a link; once begun it is not cancelled, but has a deadline."""

        def say() -> T:
            link.begin()
            return function(link, *arguments)

        return await trio.to_thread.run_sync(say, limiter=self._limiter)


def _knock(link: Link) -> None:
    link.do([("PING",)])
