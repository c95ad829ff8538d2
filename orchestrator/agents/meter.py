"""What one agent spends on models: each turn counted, and in the journal before anybody acts on it.

The invariant: an answer that `ask` returns is durable. Made by `supervise.run` for each agent; the runtimes
and the door call it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from orchestrator.agents.base import MAX_TEXT, Answer, Request
from orchestrator.core import events as e
from orchestrator.core.model import Usage
from orchestrator.core.text import tail_of
from orchestrator.core.trouble import ProviderFailure

#: Journals facts about the agent; durable on return.
Record = Callable[..., Awaitable[None]]


class AgentMeter:
    """See `agents.base.Meter`; one for each life of an agent."""

    def __init__(self, ids: dict[str, str], record: Record, *, turn: int = 0) -> None:
        """Take the agent's ids, the way into the journal, and the last turn on its worktree."""
        self._ids = ids
        self._record = record
        self._turn = turn

    async def ask(self, request: Request, ask: Callable[[], Awaitable[Answer]], *, prompt: int) -> Answer:
        """Make a request, and journal the turn before returning its answer."""
        answer = await _settled(ask)
        if isinstance(answer, ProviderFailure):
            if answer.usage is not None:  # a part of the answer came, and was paid for
                await self._record(e.AgentUsage(**self._ids, usage=answer.usage))
            raise answer
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


async def _settled(ask: Callable[[], Awaitable[Answer]]) -> Answer | ProviderFailure:
    try:
        return await ask()
    except ProviderFailure as failure:
        return failure
