"""The runtime `terminal`: an interactive program on a terminal of its own, that lives through all turns.

A prompt lies in the file that `command` has too, and is typed once the program is idle; the turn ends when
the program is idle again, or has ended. Idle is what the program says (`agents.signs`), where it says
anything, or what its task says (`options.terminal.idleMarker`), else silence for `idleSeconds`. The
invariant: nothing that the program shows, or leaves unread, holds up anybody but itself.
Caller: `agents.registry`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import trio

from orchestrator.agents.base import MAX_TEXT, Prompt, Session, TurnResult, Turns
from orchestrator.agents.keys import pasted, shown_lines, typed
from orchestrator.agents.lines import TurnLog
from orchestrator.agents.live_terminal import LiveTerminal
from orchestrator.agents.program import (
    Rewrite,
    check_program,
    missing_program,
    open_prompt_file,
    program_spec,
    stop_reason,
)
from orchestrator.core.model import Usage
from orchestrator.core.spec import TaskSpec
from orchestrator.core.text import tail_of
from sandbox.base import CommandNotFound, Exit, Sandbox

NAME = "terminal"
#: Silence after which what a program said about itself, or its echo, is taken for whole.
SETTLE_S = 0.3
#: How long an echo may go on before the prompt is sent off all the same.
ECHO_S = 5.0
#: How long output is read that came before the program's end, where something else still holds the terminal.
DRAIN_S = 1.0
MAX_LOG_BYTES, MAX_LOG_LINES = 8 * 1024 * 1024, 50_000


class TerminalRuntime:
    """See `agents.base.Runtime`."""

    name = NAME

    def __init__(self) -> None:
        #: The terminals that can be looked at now, by agent.
        self.live: dict[str, LiveTerminal] = {}

    def check(self, spec: TaskSpec) -> None:
        """Raise `FieldRefused` where the task names no program."""
        check_program(NAME, spec)

    def open(self, session: Session) -> AbstractAsyncContextManager[Turns]:
        """Begin a conversation; the program starts with the first turn."""
        return _open(session, self.live)


@asynccontextmanager
async def _open(session: Session, live: dict[str, LiveTerminal]) -> AsyncIterator[Turns]:
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield TerminalTurns(session, live, nursery)
        except Exception as error:  # raised below, bare
            failure = error
        nursery.cancel_scope.cancel(reason="the conversation is over")
    if failure is not None:
        raise failure


@dataclass(slots=True)
class _Program:
    """A program on its terminal."""

    live: LiveTerminal
    rewrite: Rewrite
    log: TurnLog
    ended: Exit | None = None
    failure: Exception | None = None
    read_whole: trio.Event = field(default_factory=trio.Event)

    async def note(self, chunk: bytes) -> None:
        await self.log.add("stdout", chunk)


@dataclass(frozen=True, slots=True)
class _Moment:
    """When something was typed, so that what came before is not taken for the answer."""

    at: float = -math.inf
    waits: int = 0
    pieces: int = 0


class TerminalTurns:
    """See `agents.base.Turns`."""

    def __init__(self, session: Session, live: dict[str, LiveTerminal], nursery: trio.Nursery) -> None:
        self._session = session
        self._live = live
        self._nursery = nursery
        self._options = session.spec.options.terminal
        self._program: _Program | None = None
        self._announced = False

    async def turn(self, prompt: Prompt) -> TurnResult:
        """Type the prompt and wait for the answer; raises `AgentError` where there is no such program."""
        clock = self._session.backend.clock
        began = clock.now()
        program = self._program
        if program is None or program.ended is not None:
            program = self._program = await self._nursery.start(self.run, prompt)
            await self._announce()
        else:
            program.rewrite(prompt.text)
            program.log = self._new_log()
        await self._wait_idle(program, _Moment(at=clock.now() if prompt.number > 1 else -math.inf))
        await self._wait_idle(program, await self._give(program, prompt))
        if program.failure is not None:
            raise program.failure
        await program.log.finish()
        ended = program.ended
        return TurnResult(
            ok=ended is None or ended.ok,
            stop_reason="idle" if ended is None else stop_reason(ended),
            exit=ended,
            text=tail_of((await program.live.text()).encode(), MAX_TEXT),
            usage=Usage(),
            duration_ms=(clock.now() - began) * 1000,
        )

    def _new_log(self) -> TurnLog:
        return TurnLog(
            self._session.output, max_bytes=MAX_LOG_BYTES, max_lines=MAX_LOG_LINES, shown=shown_lines
        )

    async def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            await self._session.started()

    # --- the program's life --------------------------------------------------------------------------------

    async def run(self, prompt: Prompt, *, task_status: trio.TaskStatus[_Program]) -> None:
        """Run the program to its end; what goes wrong once it runs is its `failure`."""
        session, program = self._session, None
        size = (self._options.columns, self._options.rows)
        try:
            with open_prompt_file(session, prompt) as (path, rewrite):
                spec = program_spec(NAME, session, prompt, path)
                spec = replace(spec, terminal=size, env={"TERM": "xterm-256color", **spec.env})
                async with session.backend.open(spec) as sandbox:
                    assert sandbox.terminal is not None  # noqa: S101 - it was asked for
                    live = LiveTerminal(sandbox.terminal, size, session.backend.clock)
                    program = _Program(live, rewrite, self._new_log())
                    self._live[session.agent_id] = live
                    task_status.started(program)
                    await self._attend(program, sandbox)
        except CommandNotFound as missing:
            raise missing_program(session) from missing
        except Exception as error:
            if program is None:
                raise
            program.failure = error
        finally:
            if program is not None:
                self._live.pop(session.agent_id, None)
                program.live.end(f"the program ended: {program.ended or 'it was ended'}")

    async def _attend(self, program: _Program, sandbox: Sandbox) -> None:
        """Read and type until the program has ended, and for a moment longer."""
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                try:
                    await program.live.read(program.note)
                except Exception as error:  # told by the turn, bare
                    program.failure = error
                    nursery.cancel_scope.cancel()
                program.read_whole.set()

            async def type_on() -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await program.live.type_on()

            nursery.start_soon(read)
            nursery.start_soon(type_on)
            program.ended = await sandbox.wait()
            with trio.move_on_after(DRAIN_S):
                await program.read_whole.wait()
            nursery.cancel_scope.cancel()

    # --- one prompt ----------------------------------------------------------------------------------------

    async def _give(self, program: _Program, prompt: Prompt) -> _Moment:
        """Type the prompt and send it off; return when that was."""
        live, clock = program.live, self._session.backend.clock
        text = pasted(prompt.text) if live.signs.takes_pastes else typed(prompt.text)
        await live.type_whole(text)
        given = clock.now()
        with clock.move_on_after(ECHO_S):
            await self._wait_quiet(live, given, SETTLE_S)
        moment = _Moment(clock.now(), live.signs.waits, live.pieces)
        if self._options.submit:
            await live.type_whole(self._options.submit.encode())
        return moment

    async def _wait_quiet(self, live: LiveTerminal, since: float, quiet_s: float) -> None:
        clock = self._session.backend.clock
        while not live.over and (left_s := max(live.last_output_at, since) + quiet_s - clock.now()) > 0:
            with clock.move_on_after(left_s):
                await live.wait_moved()

    async def _wait_idle(self, program: _Program, since: _Moment) -> None:
        """Wait until the program waits for a prompt, or has ended."""
        live, clock, marker = program.live, self._session.backend.clock, self._options.idle_marker
        while not live.over:
            left_s = max(live.last_output_at, since.at) + self._patience_s(live, since) - clock.now()
            if left_s <= 0 and program.ended is None:
                pieces = live.pieces
                if marker is None or await live.says(marker):
                    return
                if live.pieces != pieces:
                    continue
            with clock.move_on_after(left_s if left_s > 0 else math.inf):
                await live.wait_moved()

    def _patience_s(self, live: LiveTerminal, since: _Moment) -> float:
        """Return for how long the program has to be silent to be idle."""
        if live.signs.working:
            return math.inf
        told = live.signs.waits > since.waits
        marked = self._options.idle_marker is not None and live.pieces > since.pieces
        return min(SETTLE_S, self._options.idle_seconds) if told or marked else self._options.idle_seconds
