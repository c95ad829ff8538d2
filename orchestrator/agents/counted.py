"""An agent's meter that also tells what went through it since the last prompt.

Called by the runtimes whose programs speak to their model through the door: what the journal has of a prompt
is the usage of their answer. The invariant: however many tool calls a program tells of, what the journal has
of them is bounded; it is up to date after `settle`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from orchestrator.agents.base import Answer, Meter, Request
from orchestrator.core.model import Usage

#: Counts of tool calls that are journaled as they come, for each prompt; after these, one in so long.
FREE_COUNTS = 1000
COUNT_EVERY_S = 1.0


class CountedMeter:
    """See `agents.base.Meter`."""

    def __init__(self, inner: Meter) -> None:
        self._inner = inner
        self._counted_at = 0.0
        self.reset()

    def reset(self) -> None:
        """Count anew."""
        #: What the answers cost, how many requests were made, and how many of them were answered.
        self.usage, self.requests, self.turns = Usage(), 0, 0
        self._counts = self._uncounted = 0

    async def ask(self, request: Request, ask: Callable[[], Awaitable[Answer]], *, prompt: int) -> Answer:
        """See `agents.base.Meter`."""
        self.requests += 1
        answer = await self._inner.ask(request, ask, prompt=prompt)
        self.usage = self.usage.plus(answer.usage)
        self.turns += 1
        return answer

    async def count_tools(self, calls: int, content: str | None = None) -> None:
        """See `agents.base.Meter`; a program that tells of very many is counted once a second."""
        if content is not None:
            await self._inner.count_tools(calls, content)
            return
        self._uncounted += calls
        if self._counts < FREE_COUNTS or trio.current_time() >= self._counted_at + COUNT_EVERY_S:
            await self.settle()

    async def settle(self) -> None:
        """Journal what was told and not counted; to be called once a prompt was answered."""
        calls, self._uncounted = self._uncounted, 0
        if calls:
            self._counts += 1
            self._counted_at = trio.current_time()
            await self._inner.count_tools(calls)

    async def check_tools(self, calls: int) -> None:
        """See `agents.base.Meter`."""
        await self._inner.check_tools(calls)
