"""The runtime `acp`: any program that speaks the Agent Client Protocol on its standard input and output.

For each prompt the program is started anew in a sandbox and goes on with its earlier session, where it can:
the worktree is nobody's while a candidate is judged, and a restart after a crash is the same as any other.
What it has to remember lies in a home that stays with the worktree. The invariant: whatever the program says
or asks, an answer ends as one of few things, and nothing of it is left. Caller: `agents.registry`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from types import ModuleType

import trio

from orchestrator.agents.acp.client import Client
from orchestrator.agents.acp.link import AgentLost, open_link
from orchestrator.agents.acp.model import Way, open_way
from orchestrator.agents.acp.progress import Progress
from orchestrator.agents.acp.schema import load_schema
from orchestrator.agents.base import Prompt, Session, TurnResult, Turns
from orchestrator.agents.lines import TurnLog
from orchestrator.agents.models import ModelAccess
from orchestrator.core.model import Usage
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import AgentError, FieldRefused, OrchestratorError
from sandbox.base import Exit
from sandbox.relay import seen_workspace

NO_AGENT = "options.command has to be an agent of the Agent Client Protocol, and to begin as one"
_ENDS = {
    "max_tokens": "was cut off by the length of its answer: ask for less at once",
    "max_turn_requests": "asked its model as often as it allows itself: ask for less at once",
    "refusal": "refused to go on: put the task in other words",
    "cancelled": "says that it was cancelled, which nobody did",
}


class AcpRuntime:
    """See `agents.base.Runtime`."""

    name = "acp"

    def __init__(self, access: ModelAccess | None = None, *, allow: bool = True) -> None:
        """Take how agents reach a model, and whether they may what they ask leave for, in their sandbox."""
        self._access = access
        self._allow = allow

    def check(self, spec: TaskSpec) -> None:
        """Raise `FieldRefused` where the task names no program."""
        if spec.options.command is None:
            raise FieldRefused(
                "options.command",
                'the runtime "acp" needs the agent\'s program and its arguments, e.g. ["claude-agent-acp"]',
            )

    def open(self, session: Session) -> AbstractAsyncContextManager[Turns]:
        """Begin a conversation; each prompt starts the program once."""
        return self._open(session)

    @asynccontextmanager
    async def _open(self, session: Session) -> AsyncIterator[Turns]:
        schema = await trio.to_thread.run_sync(load_schema, abandon_on_cancel=True)
        async with open_way(session, self._access) as way:
            yield AcpTurns(session, schema, way, allow=self._allow)


class AcpTurns:
    """See `agents.base.Turns`."""

    def __init__(self, session: Session, schema: ModuleType, way: Way, *, allow: bool) -> None:
        self._session = session
        self._schema = schema
        self._way = way
        self._allow = allow
        self._announced = False

    async def turn(self, prompt: Prompt) -> TurnResult:
        """Have the agent answer a prompt; raises `AgentError` where it does not speak as it should."""
        session, began = self._session, self._session.backend.clock.now()
        progress = Progress(TurnLog(session.output), session.note)
        tally, door = self._way.tally, self._way.door
        tally.reset()
        if door is not None:
            door.prompt = prompt.number
        reason, usage, failure = "exit", Usage(), None
        lost: AgentLost | None = None
        try:
            reason, usage = await self._answer(prompt, progress)
        except AgentLost as gone:
            lost = gone
        except OrchestratorError as error:
            failure = error
        if lost is not None and lost.said:
            await progress.tell(str(lost))
        await progress.log.finish()
        await tally.settle()
        if door is not None:
            door.check()
        if failure is not None:
            raise failure
        if reason in _ENDS:
            raise AgentError(f"the agent {_ENDS[reason]} (stop reason {reason})")
        ended = lost.ended if lost is not None else None
        return TurnResult(
            ok=ended is None,
            stop_reason=reason if ended is None else _stop_reason(ended),
            exit=ended,
            text=progress.text,
            usage=tally.usage if tally.turns else usage,
            duration_ms=(session.backend.clock.now() - began) * 1000,
            metered=tally.turns > 0,
        )

    async def _answer(self, prompt: Prompt, progress: Progress) -> tuple[str, Usage]:
        """Start the program and return why it stopped and what it says it spent; raises `AgentLost`."""
        session, way = self._session, self._way
        async with open_link(session, way.environment, way.ports) as link:
            if way.door is not None:
                way.door.listen_nowait(link.listeners[0])
            kept = await link.greet()
            await self._announce()
            counted = replace(session, meter=way.tally)
            client = Client(counted, link, self._schema, progress, allow=self._allow)
            try:
                text = await client.open(seen_workspace(session.backend, session.workspace), kept, prompt)
            except AgentLost as lost:
                if _stop_reason(lost.ended) != "exit":
                    raise
                raise AgentError(f"{lost}, before it had a session: {NO_AGENT}") from lost
            answered = await client.prompt(text, prompt)
            await link.finish()
        return answered

    async def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            await self._session.started()


def _stop_reason(ended: Exit) -> str:
    if ended.oom_killed:
        return "oom"
    return "signal" if ended.signal is not None else "exit"
