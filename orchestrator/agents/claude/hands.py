"""The hands of a model: the tool server inside a sandbox, and the calls that are made of it.

The invariant: whatever a tool or the server does, a call ends soon after its deadline, and what comes from
inside is bounded and checked before it is looked at. Deadlines are by the sandbox's clock, which stands still
while it is frozen. Caller: `runtime`.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from orchestrator.agents.base import Session
from orchestrator.core.text import tail_of
from orchestrator.errors import AgentError
from sandbox.base import CommandNotFound, Exit, Sandbox, Spec
from sandbox.clock import Clock

MAX_FRAME_BYTES = 1024 * 1024
MAX_REQUEST_BYTES = 24 * 1024 * 1024
#: Characters of one answer: the server keeps to fewer.
MAX_TEXT = 60_000
CHUNK_BYTES = 65536
#: How long the server may take to begin, to take a call in, and to answer one that was cancelled.
STALL_S = 20.0
#: How long the sandbox of a server that has closed its output may take to end.
END_S = 5.0

#: What is quiet, and asks nobody.
QUIET = {"TERM": "dumb", "PAGER": "cat", "GIT_PAGER": "cat", "GIT_EDITOR": "true", "GIT_TERMINAL_PROMPT": "0"}

_PARTS = ("tool_files", "tool_shell", "tool_server")
_BOOT = (
    "import sys, types\n"
    "*parts, main = sys.argv[1:]\n"
    "for name, text in zip(parts[::2], parts[1::2]):\n"
    "    sys.modules[name] = module = types.ModuleType(name)\n"
    "    exec(text, module.__dict__)\n"
    "del sys.argv[1:]\n"
    "exec(main)\n"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call."""

    ok: bool
    text: str


class HandsLost(Exception):
    """The tool server has ended, or was ended."""

    def __init__(self, ended: Exit, said: str) -> None:
        super().__init__(f"the tool server in the sandbox ended with {ended}" + (f": {said}" if said else ""))
        self.ended = ended
        self.said = said


class Hands:
    """One live tool server."""

    def __init__(self, sandbox: Sandbox, clock: Clock) -> None:
        self._sandbox = sandbox
        self._clock = clock
        self._buffer = b""
        self._calls = 0

    async def call(self, tool: str, given: Mapping[str, Any], *, deadline_s: float) -> Outcome:
        """Make a call and return what came of it; past the deadline the server ends it.

        Raises `HandsLost` where there is no server any more, `AgentError` where it does not answer.
        """
        self._calls += 1
        await self._send({"id": self._calls, "tool": tool, "input": given, "seconds": deadline_s})
        outcome = await self._outcome(deadline_s)
        if outcome is None:
            await self._send({"cancel": self._calls})
            outcome = await self._outcome(STALL_S)
        if outcome is None:
            raise AgentError(f"the tool server in the sandbox does not answer: {tool} was called")
        return outcome

    async def greet(self) -> None:
        """Wait until the server has begun."""
        ready = None
        with self._clock.move_on_after(STALL_S):
            ready = await self._receive()
        if ready is None:
            raise AgentError(f"the tool server in the sandbox did not begin within {STALL_S:g} s")

    async def _send(self, message: Mapping[str, Any]) -> None:
        body = json.dumps(message).encode()
        if len(body) > MAX_REQUEST_BYTES:
            raise AgentError("the model called a tool with more than the sandbox can be told")
        sent = False
        with self._clock.move_on_after(STALL_S):
            try:
                await self._sandbox.stdin.send_all(struct.pack(">I", len(body)) + body)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self._lose()
            sent = True
        if not sent:
            raise AgentError("the tool server in the sandbox takes no calls any more")

    async def _outcome(self, deadline_s: float) -> Outcome | None:
        """Return what the server says of the last call; None past the deadline."""
        with self._clock.move_on_after(deadline_s):
            while True:
                answer = await self._receive()
                if answer.get("id") == self._calls:
                    text = str(answer.get("text", ""))[:MAX_TEXT]
                    return Outcome(answer.get("ok") is True, text.encode("utf-8", "replace").decode())
        return None

    async def _receive(self) -> dict[str, Any]:
        """Return the next message; a cancelled call loses nothing of it."""
        while True:
            if len(self._buffer) >= 4:
                (size,) = struct.unpack(">I", self._buffer[:4])
                if size > MAX_FRAME_BYTES:
                    raise _tampered()
                if len(self._buffer) >= 4 + size:
                    body, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
                    return _decoded(body)
            chunk = await self._sandbox.stdout.receive_some(CHUNK_BYTES)
            if not chunk:
                await self._lose()
            self._buffer += chunk

    async def _lose(self) -> None:
        """Find out how the server ended, and raise `HandsLost`."""
        ended: Exit | None = None
        said = b""
        with self._clock.move_on_after(END_S):
            ended = await self._sandbox.wait()
        if ended is None:
            self._sandbox.kill_nowait()
            ended = await self._sandbox.wait()
        with trio.move_on_after(END_S), contextlib.suppress(trio.ClosedResourceError):
            said = bytes(await self._sandbox.stderr.receive_some(CHUNK_BYTES))
        raise HandsLost(ended, tail_of(said, 500).strip())


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise _tampered() from None
    if not isinstance(message, dict):
        raise _tampered()
    return message


def _tampered() -> AgentError:
    return AgentError("the tool server says what it never would: another writes there")


@asynccontextmanager
async def open_hands(session: Session) -> AsyncIterator[Hands]:
    """Start the tool server in a sandbox; leaving the block ends all that was started there."""
    spec = Spec(
        label=session.agent_id,
        command=("python3", "-I", "-S", "-c", _BOOT, *_program()),
        workspace=session.workspace,
        env={**QUIET, **session.spec.options.env},
        binds=session.binds,
        limits=session.limits,
    )
    try:
        async with session.backend.open(spec) as sandbox:
            hands = Hands(sandbox, session.backend.clock)
            await hands.greet()
            yield hands
    except CommandNotFound as missing:
        path = session.spec.options.env.get("PATH")
        where = f"PATH is {path} (options.env)" if path else "PATH is what SANDBOX_PATH says"
        raise AgentError(
            f"there is no python3 in the sandbox, by which the runtime claude works there: {where}; "
            "install it under /usr, or name its directory in SANDBOX_READ_ONLY and SANDBOX_PATH"
        ) from missing


def _program() -> list[str]:
    """Return the parts of the server, with their names, and its main part."""
    here = Path(__file__)
    texts = [here.with_name(f"{part}.py").read_text() for part in _PARTS]
    named = zip((f"{__package__}.{part}" for part in _PARTS[:-1]), texts[:-1], strict=True)
    return [*(word for pair in named for word in pair), texts[-1]]
