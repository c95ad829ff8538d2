"""An agent's meter that also tells what went through it since the last prompt.

Called by the runtimes whose programs speak to their model through the door: what the journal has of a prompt
is the usage of their answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from orchestrator.agents.base import Answer, Meter, Request
from orchestrator.core.model import Usage


class CountedMeter:
    """See `agents.base.Meter`."""

    def __init__(self, inner: Meter) -> None:
        self._inner = inner
        self.reset()

    def reset(self) -> None:
        """Count anew."""
        #: What the answers cost, how many requests were made, and how many of them were answered.
        self.usage, self.requests, self.turns = Usage(), 0, 0

    async def ask(self, request: Request, ask: Callable[[], Awaitable[Answer]], *, prompt: int) -> Answer:
        """See `agents.base.Meter`."""
        self.requests += 1
        answer = await self._inner.ask(request, ask, prompt=prompt)
        self.usage = self.usage.plus(answer.usage)
        self.turns += 1
        return answer

    async def count_tools(self, calls: int, content: str | None = None) -> None:
        """See `agents.base.Meter`."""
        await self._inner.count_tools(calls, content)

    async def check_tools(self, calls: int) -> None:
        """See `agents.base.Meter`."""
        await self._inner.check_tools(calls)
