"""What an agent tells of its work while it answers a prompt: words, tool calls, plans; for log and meter.

The invariant: whatever it tells, the log is bounded, and a tool call is counted once, by its id. What it says
that it has spent is its own word: it is shown where no meter of ours counted. Caller: `client`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.agents.base import MAX_TEXT
from orchestrator.agents.lines import TurnLog
from orchestrator.core.liveness import Evidence, fingerprint, of_tool
from orchestrator.core.model import Usage
from orchestrator.core.text import tail_of
from sandbox.relay import Tail

if TYPE_CHECKING:
    from acp import schema as types

#: Characters of one line about a tool call or a plan, and lines about one plan.
MAX_TOLD, MAX_ENTRIES = 500, 20
#: Ids of tool calls that are remembered; beyond, each is taken for a new one.
MAX_CALLS = 10_000
#: Tool calls at once that are followed to their end.
MAX_OPEN = 100
#: What an agent tells while it answers a prompt, and not about itself.
_ANSWERS = {"agent_message_chunk", "agent_thought_chunk", "tool_call", "tool_call_update", "plan"}
#: More than anybody spends.
MAX_COUNT = 10**12


class Progress:
    """The answer to one prompt, as it comes."""

    def __init__(self, log: TurnLog, note: Callable[[Evidence], None]) -> None:
        """Take the log, and where what came of a tool call is noted."""
        self.log = log
        self._note = note
        #: Whether it began to be answered what was asked last.
        self.answering = False
        #: By its id, the kind of each call that has not ended, and the fingerprint of its input.
        self._open: dict[str, tuple[str, str]] = {}
        #: Tool calls that the meter was not told of yet.
        self.uncounted = 0
        self._calls: set[str] = set()
        self._said = Tail(4 * MAX_TEXT)
        self._cost = 0.0
        self._cost_before = 0.0

    @property
    def text(self) -> str:
        """The end of what the agent said."""
        return tail_of(self._said.bytes(), MAX_TEXT)

    @property
    def idle(self) -> bool:
        """Whether no tool is at work."""
        return not self._open

    def begin(self) -> None:
        """Take what was told until now as not of this prompt."""
        self._cost_before = self._cost

    def begin_answer(self) -> None:
        """Take what was at work as over: nothing that is asked now was begun to be answered."""
        self.answering = False
        self._open.clear()

    async def tell(self, text: str) -> None:
        """Put one line into the log."""
        line = " ".join(text.encode("utf-8", "replace").decode().split())
        await self.log.tell(line if len(line) <= MAX_TOLD else line[:MAX_TOLD] + " [cut]")

    async def take(self, told: types.SessionNotification) -> None:
        """Take an update; those that are not named here are for people who look on."""
        update = told.update
        self.answering |= update.session_update in _ANSWERS
        if update.session_update == "agent_message_chunk":
            if update.content.type == "text":
                encoded = update.content.text.encode("utf-8", "replace")
                self._said.add(encoded)
                await self.log.add("stdout", encoded)
        elif update.session_update == "tool_call" or update.session_update == "tool_call_update":  # noqa: PLR1714 - mypy
            await self._take_call(update)
        elif update.session_update == "plan":
            for entry in update.entries[:MAX_ENTRIES]:
                await self.tell(f"plan, {entry.status}: {entry.content}")
        elif update.session_update == "usage_update":
            cost = update.cost
            if cost is not None and cost.currency == "USD" and math.isfinite(cost.amount):
                self._cost = min(max(cost.amount, 0.0), float(MAX_COUNT))

    async def _take_call(self, call: types.ToolCallStart | types.ToolCallProgress) -> None:
        name = call.tool_call_id[:200]
        self._follow(name, call)
        if name not in self._calls:
            if len(self._calls) < MAX_CALLS:
                self._calls.add(name)
            self.uncounted += 1
            await self.tell(f"tool {call.kind or 'other'}: {call.title or name}")
        elif call.status == "failed":
            await self.tell(f"tool failed: {call.title or name}")

    def _follow(self, name: str, call: types.ToolCallStart | types.ToolCallProgress) -> None:
        """Note what a call was and what came of it, once it has ended."""
        kind, given = self._open.pop(name, (str(call.kind), fingerprint(call.title)))
        if call.raw_input is not None:
            given = fingerprint(call.raw_input)
        if call.status in {"completed", "failed"}:
            came = call.raw_output
            if came is None:
                came = [part.model_dump(mode="json", exclude={"field_meta"}) for part in call.content or ()]
            self._note(of_tool(kind, given, fingerprint([call.status, came])))
        elif len(self._open) < MAX_OPEN:
            self._open[name] = (kind, given)

    def cost(self) -> float:
        """Return what the agent says that all has cost since it began."""
        return max(self._cost - self._cost_before, 0.0)

    def usage(self, told: types.Usage | None) -> Usage:
        """Return what the agent says that an answer has cost, but for money."""
        if told is None:
            return Usage()
        return Usage(
            input_tokens=min(told.input_tokens, MAX_COUNT),
            output_tokens=min(told.output_tokens, MAX_COUNT),
            cache_read_tokens=min(told.cached_read_tokens or 0, MAX_COUNT),
            cache_write_tokens=min(told.cached_write_tokens or 0, MAX_COUNT),
        )
