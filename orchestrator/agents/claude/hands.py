"""The hands of a model: the tool server inside a sandbox, and the calls that are made of it.

The invariant: whatever a tool or the server does, a call ends soon after its deadline, and what comes from
inside is bounded and checked before it is looked at. Deadlines are by the sandbox's clock, which stands still
while it is frozen. Caller: `runtime`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from orchestrator.agents.base import Session
from orchestrator.agents.companion import CompanionLost, command_of, how_lost, no_python
from orchestrator.errors import AgentError
from sandbox.base import CommandNotFound, Sandbox, Spec
from sandbox.clock import Clock

MAX_FRAME_BYTES = 1024 * 1024
MAX_REQUEST_BYTES = 24 * 1024 * 1024
#: Characters of one answer: the server keeps to fewer.
MAX_TEXT = 60_000
CHUNK_BYTES = 65536
#: How long the server may take to begin, to take a call in, and to answer one that was cancelled.
STALL_S = 20.0

#: What is quiet, and asks nobody.
QUIET = {"TERM": "dumb", "PAGER": "cat", "GIT_PAGER": "cat", "GIT_EDITOR": "true", "GIT_TERMINAL_PROMPT": "0"}

_PARTS = [Path(__file__).with_name(f"{part}.py") for part in ("tool_files", "tool_shell", "tool_server")]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call."""

    ok: bool
    text: str


class HandsLost(CompanionLost):
    """The tool server has ended, or was ended."""

    who = "the tool server in the sandbox"


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
        raise HandsLost(*await how_lost(self._sandbox, self._clock))


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
        command=command_of(__package__ or "", _PARTS),
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
        raise no_python(session, "claude") from missing
