"""The runtime `command`: any program, run anew for each turn, its exit status the judgement.

The prompt lies in a file that the program can read and not write, and comes on its standard input; who it
works for stands in its environment. The invariant: whatever the program does with input, output and
descendants, the turn ends soon after the program does, and nothing of it is left. Caller:
`agents.registry`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from orchestrator.agents.base import MAX_TEXT, Prompt, Session, TurnResult, Turns
from orchestrator.agents.lines import TurnLog
from orchestrator.agents.program import (
    check_program,
    missing_program,
    open_prompt_file,
    program_spec,
    stop_reason,
)
from orchestrator.core.model import Usage
from orchestrator.core.spec import TaskSpec
from orchestrator.core.text import tail_of
from sandbox.base import CommandNotFound
from sandbox.relay import Tail, relay

NAME = "command"
#: Bytes of the program's output from which the text of the turn is taken.
_TAIL_BYTES = 4 * MAX_TEXT


class CommandRuntime:
    """See `agents.base.Runtime`."""

    name = NAME

    def check(self, spec: TaskSpec) -> None:
        """Raise `FieldRefused` where the task names no program."""
        check_program(NAME, spec)

    def open(self, session: Session) -> AbstractAsyncContextManager[Turns]:
        """Begin a conversation; each turn runs the program once."""
        return _open(session)


@asynccontextmanager
async def _open(session: Session) -> AsyncIterator[Turns]:
    yield CommandTurns(session)


class CommandTurns:
    """See `agents.base.Turns`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._announced = False

    async def turn(self, prompt: Prompt) -> TurnResult:
        """Run the program to its end; raises `AgentError` where the sandbox has no such program."""
        session, began = self._session, self._session.backend.clock.now()
        with open_prompt_file(session, prompt) as (path, _):
            log, said = TurnLog(session.output), Tail(_TAIL_BYTES)

            async def on_stdout(chunk: bytes) -> None:
                said.add(chunk)
                await log.add("stdout", chunk)

            try:
                async with session.backend.open(program_spec(NAME, session, prompt, path)) as sandbox:
                    await self._announce()
                    ended = await relay(
                        sandbox,
                        stdin=prompt.text.encode(),
                        on_stdout=on_stdout,
                        on_stderr=partial(log.add, "stderr"),
                    )
            except CommandNotFound as missing:
                raise missing_program(session) from missing
            await log.finish()
        return TurnResult(
            ok=ended.ok,
            stop_reason=stop_reason(ended),
            exit=ended,
            text=tail_of(said.bytes(), MAX_TEXT),
            usage=Usage(),
            duration_ms=(session.backend.clock.now() - began) * 1000,
        )

    async def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            await self._session.started()
