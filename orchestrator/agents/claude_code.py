"""The runtime `claude-code`: the real Claude Code in the sandbox, with no key and no network but the door.

It runs once for each prompt, as nothing of the agent may run while its work is collected and judged: the
first time it begins a session, and after that resumes it, from what it kept in a home of its own beside the
worktree. The invariant: whatever it writes, the turn ends as the program does, or as the door says; its
requests go through the door, which has the key, journals each turn before the program sees its end, and asks
again where that helps. Caller: `agents.registry`.
"""

from __future__ import annotations

import logging
import math
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal

import trio

from orchestrator.agents.base import Prompt, Session, TurnResult, Turns
from orchestrator.agents.claude_cli import ClaudeCli, ClaudeCodeUnusable, Place, Program
from orchestrator.agents.claude_dictation import Dictation
from orchestrator.agents.claude_events import Telling
from orchestrator.agents.claude_launch import Way, arguments, environment, home_bind, open_way
from orchestrator.agents.counted import CountedMeter
from orchestrator.agents.models import ModelAccess
from orchestrator.agents.proxy import Door, open_door
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import AgentError, FieldRefused
from sandbox.base import CommandNotFound, Exit, Spec
from sandbox.relay import Tail, relay

log = logging.getLogger(__name__)

#: How long the program may take to end once it has told its result, before it is ended.
END_S = 10.0
#: Bytes of its complaints that an error shows the end of.
_COMPLAINT_BYTES = 500
_SESSIONS = uuid.UUID("6f0f7a53-6d1c-4f0e-8f58-3d1d3c1b0f53")
NO_KEY = 'the runtime "claude-code" needs a key: set CLAUDE_API_KEY'

INTERRUPTED = (
    "You were interrupted, because the host restarted: what was running is gone, your files are as you left "
    "them. If you were asked what follows already, go on where you stopped.\n\n"
)
LOST = (
    "Work on this was begun in a session that is lost. What it made is in the working directory: look at it "
    "first.\n\n"
)


class ClaudeCodeRuntime:
    """See `agents.base.Runtime`."""

    name = "claude-code"

    def __init__(
        self,
        cli: ClaudeCli,
        access: ModelAccess,
        *,
        way: Literal["auto", "socket", "port"] = "auto",
    ) -> None:
        """Take what finds the program, how agents get at a model, and by which way they reach the door."""
        self._cli = cli
        self._access = access
        self._way = way

    def found(self) -> bool:
        """Whether there is a key, and a program that may work."""
        try:
            self._cli.find()
        except ClaudeCodeUnusable:
            return False
        return self._access.has_key

    def check(self, spec: TaskSpec) -> None:
        """Raise `FieldRefused` where there is no key, or no program."""
        if not self._access.has_key:
            raise FieldRefused("options.runtime", NO_KEY)
        try:
            self._cli.find()
        except ClaudeCodeUnusable as error:
            log.warning("a task for claude-code was refused: %s", error.detail)
            raise FieldRefused("options.runtime", error.detail) from error

    @asynccontextmanager
    async def _open(self, session: Session) -> AsyncIterator[Turns]:
        access = self._access
        if not access.has_key:
            raise AgentError(NO_KEY)
        program = await self._cli.ready(Place.of(session))
        model = access.model_of(session.spec)
        tally = CountedMeter(session.meter)
        async with AsyncExitStack() as opened:
            way = opened.enter_context(open_way(session, self._way))
            door = await opened.enter_async_context(
                open_door(replace(session, meter=tally), access.upstream, [model, *access.models])
            )
            if way.listener is not None:
                door.listen_nowait(way.listener)
            yield ClaudeCodeTurns(session, program, model, door=door, way=way, tally=tally)

    def open(self, session: Session) -> AbstractAsyncContextManager[Turns]:
        """Begin a conversation, or go on with the one of an earlier life."""
        return self._open(session)


@dataclass(frozen=True, slots=True)
class Start:
    """How a run of the program begins: by a new session or an old one, and what is said before the prompt."""

    flag: Literal["--session-id", "--resume"]
    session: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run of the program came to; without an `ended` it had to be ended after its result."""

    telling: Telling
    ended: Exit | None
    complaint: str


class ClaudeCodeTurns:
    """See `agents.base.Turns`."""

    def __init__(
        self, session: Session, program: Program, model: str, *, door: Door, way: Way, tally: CountedMeter
    ) -> None:
        self._session = session
        self._program = program
        self._model = model
        self._door = door
        self._way = way
        self._tally = tally
        self._id = str(uuid.uuid5(_SESSIONS, session.agent_id))
        self._begun = False

    async def turn(self, prompt: Prompt) -> TurnResult:
        """Have a prompt answered; raises why the door is closed, and `AgentError` without a program."""
        clock = self._session.backend.clock
        began = clock.now()
        self._door.prompt = prompt.number
        self._tally.reset()
        *perhaps, last = self._starts()
        for start in perhaps:
            ran = await self._run(prompt, start)
            if not self._refused(ran):
                break
        else:
            start = last
            ran = await self._run(prompt, start)
        self._id = start.session
        await self._tally.settle()
        self._door.check()
        await self._compare(ran)
        return self._result(ran, (clock.now() - began) * 1000)

    def _starts(self) -> list[Start]:
        """Return the ways to begin, best first: those before the last may be refused for their session."""
        fresh = Start("--session-id", str(uuid.uuid4()), LOST)
        if self._begun:
            return [Start("--resume", self._id), fresh]
        with os.scandir(self._session.open_home()) as kept:
            if not self._session.resumed or next(kept, None) is None:
                return [Start("--session-id", self._id)]
        return [Start("--resume", self._id, INTERRUPTED), Start("--session-id", self._id, LOST), fresh]

    def _refused(self, ran: Ran) -> bool:
        """Whether the program ended by itself without having asked anything."""
        result = ran.telling.result
        by_itself = ran.ended is not None and ran.ended.code not in {None, 0} and not ran.ended.excess
        return by_itself and not self._tally.requests and (result is None or result.is_error)

    async def _run(self, prompt: Prompt, start: Start) -> Ran:
        """Run the program once, until it ends or has told its result."""
        session = self._session
        dictation = Dictation(session.inbox, start.note + prompt.text, prompt.message)
        telling = Telling(session.output, self._tally.count_tools, session.note, dictation)
        complaint = Tail(_COMPLAINT_BYTES)
        ended: Exit | None = None
        patience = trio.CancelScope()

        async def on_stdout(chunk: bytes) -> None:
            await telling.take(chunk)
            if telling.result is None:
                patience.deadline = math.inf  # it goes on, by what it was told in the last moment
            else:
                patience.deadline = min(patience.deadline, trio.current_time() + END_S)

        async def on_stderr(chunk: bytes) -> None:
            complaint.add(chunk)
            await telling.complain(chunk)

        try:
            async with session.backend.open(self._spec(start)) as sandbox:
                for listener in sandbox.listeners:
                    self._door.listen_nowait(listener)
                await self._announce()
                with patience:
                    ended = await relay(
                        sandbox,
                        stdin=dictation.feed,
                        on_stdout=on_stdout,
                        on_stderr=on_stderr,
                    )
        except CommandNotFound as missing:
            raise ClaudeCodeUnusable(
                f"{self._program.path} does not start in the sandbox: {missing}"
            ) from missing
        await telling.finish()
        said = " ".join(complaint.bytes().decode(errors="replace").split())
        return Ran(telling, ended, said)

    def _spec(self, start: Start) -> Spec:
        session, backend = self._session, self._session.backend
        home = session.open_home()
        return Spec(
            label=session.agent_id,
            command=(
                self._program.seen(backend),
                *arguments(self._program.version, self._model),
                *(start.flag, start.session),
            ),
            workspace=session.workspace,
            env=environment(session, home, self._way, self._model),
            binds=(*session.binds, *self._program.binds, home_bind(home), *self._way.binds),
            limits=session.limits,
            listen=self._way.ports,
        )

    async def _announce(self) -> None:
        if not self._begun:
            await self._session.output("system", f"{self._program}, model {self._model}")
            await self._session.started()
            self._begun = True

    async def _compare(self, ran: Ran) -> None:
        """Say so where the program counts more than the door let through: the door's count holds."""
        counted, said = self._tally.usage, ran.telling.usage
        if said.tokens > counted.tokens:
            told = f"Claude Code counts {said.tokens} tokens, the door {counted.tokens}, which holds"
            await self._session.output("system", told)

    def _result(self, ran: Ran, duration_ms: float) -> TurnResult:
        result, ended = ran.telling.result, ran.ended
        beyond = ended is not None and (bool(ended.excess) or (ended.oom_killed and result is None))
        ok = result is not None and not result.is_error and not beyond
        stop_reason = "end_turn"
        if result is not None and result.is_error:
            stop_reason = f"an error: {result.why}"
        elif not ok:
            stop_reason = f"{ended}: {ran.complaint}" if ran.complaint else str(ended)
        return TurnResult(
            ok=ok,
            stop_reason=stop_reason,
            exit=ended if beyond else None,
            text=ran.telling.text,
            usage=self._tally.usage,
            duration_ms=duration_ms,
            metered=True,
        )
