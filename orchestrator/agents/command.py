"""The runtime `command`: any program, run anew for each turn, its exit status the judgement.

The prompt lies in a file that the program can read and not write, and comes on its standard input; who it
works for stands in its environment. The invariant: whatever the program does with input, output and
descendants, the turn ends soon after the program does, and nothing of it is left. Caller:
`agents.registry`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from orchestrator.agents.base import MAX_TEXT, Prompt, Session, TurnResult, Turns
from orchestrator.agents.lines import TurnLog
from orchestrator.core.model import Usage
from orchestrator.core.spec import TaskSpec
from orchestrator.core.text import tail_of
from orchestrator.errors import AgentError, FieldRefused
from sandbox.base import Bind, CommandNotFound, Exit, Spec
from sandbox.relay import Tail, relay, seen_workspace

#: Where the prompt stands inside a namespaced sandbox.
PROMPT_TARGET = "/orchestrator/prompt.md"
#: Bytes of the program's output from which the text of the turn is taken.
_TAIL_BYTES = 4 * MAX_TEXT


class CommandRuntime:
    """See `agents.base.Runtime`."""

    name = "command"

    def check(self, spec: TaskSpec) -> None:
        """Raise `FieldRefused` where the task names no program."""
        if spec.options.command is None:
            raise FieldRefused(
                "options.command",
                'the runtime "command" needs the program to run and its arguments, e.g. ["./agent.sh"]',
            )

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
        with _prompt_file(session, prompt) as path:
            log, said = TurnLog(session.output), Tail(_TAIL_BYTES)

            async def on_stdout(chunk: bytes) -> None:
                said.add(chunk)
                await log.add("stdout", chunk)

            try:
                async with session.backend.open(self._spec(prompt, path)) as sandbox:
                    await self._announce()
                    ended = await relay(
                        sandbox,
                        stdin=prompt.text.encode(),
                        on_stdout=on_stdout,
                        on_stderr=partial(log.add, "stderr"),
                    )
            except CommandNotFound as missing:
                raise self._missing_program() from missing
            await log.finish()
        return TurnResult(
            ok=ended.ok,
            stop_reason=_stop_reason(ended),
            exit=ended,
            text=tail_of(said.bytes(), MAX_TEXT),
            usage=Usage(),
            duration_ms=(session.backend.clock.now() - began) * 1000,
        )

    def _spec(self, prompt: Prompt, path: Path) -> Spec:
        session = self._session
        command = session.spec.options.command
        if command is None:
            raise AgentError('the runtime "command" was given no options.command')
        return Spec(
            label=session.agent_id,
            command=command,
            workspace=session.workspace,
            env=self._environment(prompt, session.backend.seen(path, PROMPT_TARGET)),
            binds=(*session.binds, Bind(path, PROMPT_TARGET)),
            limits=session.limits,
        )

    def _environment(self, prompt: Prompt, prompt_file: str) -> dict[str, str]:
        session = self._session
        ours = {
            "AGENT_ID": session.agent_id,
            "TASK_ID": session.task_id,
            "ATTEMPT": str(session.attempt),
            "ROLE": session.spec.agent_type.value,
            "TURN": str(prompt.number),
            "BRANCH": session.branch,
            "BASE_COMMIT": session.base,
            "WORKSPACE": seen_workspace(session.backend, session.workspace),
            "PROMPT_FILE": prompt_file,
        }
        if session.result_file is not None:
            ours["RESULT_FILE"] = session.result_file
        if session.resumed:
            ours["RESUMED"] = "1"
        if prompt.message:
            ours["MESSAGE"] = str(prompt.message)
        return {**session.spec.options.env, **{f"ORCHESTRATOR_{name}": text for name, text in ours.items()}}

    async def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            await self._session.started()

    def _missing_program(self) -> AgentError:
        options = self._session.spec.options
        program = options.command[0] if options.command else ""
        path = options.env.get("PATH")
        where = f"PATH is {path} (options.env)" if path else "PATH is what SANDBOX_PATH says"
        return AgentError(
            f"there is no program {program!r} in the sandbox: {where}; "
            "install it under /usr, name its directory in SANDBOX_READ_ONLY and SANDBOX_PATH, or commit it"
        )


@contextmanager
def _prompt_file(session: Session, prompt: Prompt) -> Iterator[Path]:
    """Write the prompt where the sandbox's user alone can read it, for as long as the block lasts."""
    path = session.scratch / f"{session.agent_id}.prompt-{prompt.number}.md"
    path.unlink(missing_ok=True)  # of an earlier life that was killed in this turn
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    try:
        with os.fdopen(fd, "wb") as file:
            if os.geteuid() == 0:  # its name is no secret: the agent's id stands in the process list
                os.fchown(fd, session.backend.user.uid, session.backend.user.gid)
            file.write(prompt.text.encode())
        yield path
    finally:
        path.unlink(missing_ok=True)


def _stop_reason(ended: Exit) -> str:
    if ended.oom_killed:
        return "oom"
    return "signal" if ended.signal is not None else "exit"
