"""A meter without budgets and patience: what a runtime's own tests need to see its failures as they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from orchestrator.agents.base import MAX_TEXT, Answer, Request
from orchestrator.core import events as e
from orchestrator.core.model import Usage
from orchestrator.core.text import tail_of
from orchestrator.core.trouble import ProviderFailure


class PlainMeter:
    """Asks once, and journals; see `orchestrator.agents.base.Meter`."""

    def __init__(self, ids: dict[str, str], record: Callable[..., Awaitable[None]], *, turn: int = 0) -> None:
        self._ids = ids
        self._record = record
        self._turn = turn

    async def ask(self, request: Request, ask: Callable[[], Awaitable[Answer]], *, prompt: int) -> Answer:
        """Make a request, and journal the turn, or what a part of it cost, before going on."""
        try:
            answer = await ask()
        except ProviderFailure as failure:
            broken = failure
        else:
            return await self._journal(answer, prompt)
        if broken.usage is not None:
            await self._record(e.AgentUsage(**self._ids, usage=broken.usage))
        raise broken

    async def _journal(self, answer: Answer, prompt: int) -> Answer:
        self._turn += 1
        words = e.said(answer.content) if answer.content is not None else {}
        turn = e.AgentTurn(
            **self._ids,
            **words,
            turn=self._turn,
            stop_reason=answer.stop_reason,
            duration_ms=round(answer.duration_ms, 1),
            text=tail_of(answer.text.encode(), MAX_TEXT),
            prompt=prompt,
            model=answer.model,
            usage=answer.usage,
        )
        await self._record(turn, e.AgentUsage(**self._ids, usage=answer.usage))
        return answer

    async def count_tools(self, calls: int, content: str | None = None) -> None:
        """Journal tool calls, and what came of them."""
        words = e.said(content) if content is not None else {}
        await self._record(e.AgentUsage(**self._ids, **words, usage=Usage(tool_calls=calls)))

    async def check_tools(self, calls: int) -> None:
        """Let any number pass."""
