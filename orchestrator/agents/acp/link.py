"""The way to an agent in its sandbox: lines of JSON, through a companion of ours that runs beside it.

The companion (`inside`) starts the agent and answers what it asks about files and terminals. The invariant:
what comes out is bounded and checked before it is looked at, for whoever is inside may write anything; and
nothing waits for ever but the wait for the agent's next words. Deadlines are by the sandbox's clock, which
stands still while it is frozen. Caller: `runtime`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from orchestrator.agents.base import Session
from orchestrator.agents.companion import CompanionLost, command_of, how_lost, no_python
from orchestrator.core.message import is_deep
from orchestrator.errors import AgentError
from sandbox.base import Bind, CommandNotFound, Sandbox, Spec
from sandbox.clock import Clock
from sandbox.ports import Ports

#: The companion makes messages lighter than this.
MAX_LINE_BYTES = 1024 * 1024
CHUNK_BYTES = 16 * 1024
#: How long the companion may take to begin, and to take in what is sent.
STALL_S = 60.0
#: How long an agent may take to end by itself once its input is closed.
END_S = 5.0
#: Where the home that stays with the worktree stands inside a namespaced sandbox.
HOME_TARGET = "/orchestrator/home"

Message = dict[str, Any]

_PARTS = [
    Path(__file__).with_name(f"{part}.py")
    for part in ("inside_files", "inside_terminals", "inside_pipes", "inside")
]


class AgentLost(CompanionLost):
    """The agent's program has ended, or was ended."""

    who = "the agent's program"


class Link:
    """One live agent."""

    def __init__(self, sandbox: Sandbox, clock: Clock) -> None:
        self._sandbox = sandbox
        self._clock = clock
        self._buffer = bytearray()
        self._seen = 0
        self._skipping = False
        #: Where we accept what the agent connects to.
        self.listeners = sandbox.listeners

    @property
    def waiting(self) -> bool:
        """Whether a further message is here already."""
        return b"\n" in self._buffer

    async def send(self, message: Message) -> None:
        """Send one message; raises `AgentLost`, and `AgentError` where nobody takes it in."""
        sent = False
        with self._clock.move_on_after(STALL_S):
            try:
                await self._sandbox.stdin.send_all(json.dumps(message).encode() + b"\n")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self._lose()
            sent = True
        if not sent:
            raise AgentError(f"the agent's program took nothing in for {STALL_S:g} s")

    async def receive(self) -> Message:
        """Return the next message; a cancelled call loses nothing of it. Raises `AgentLost`."""
        while True:
            await trio.lowlevel.checkpoint()  # many messages may come in one chunk
            try:
                message = json.loads(await self._line())
            except (ValueError, RecursionError):
                message = None
            if message is None or is_deep(message):
                return {"method": "_sandbox/garbage", "params": {"text": ""}}
            if not isinstance(message, dict):
                continue
            if message.get("method") == "_sandbox/ended":
                await self._lose()
            return message

    async def _line(self) -> bytes:
        while True:
            end = self._buffer.find(b"\n", self._seen)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._seen = 0
                if not self._skipping:
                    return line
                self._skipping = False
                return b""  # which is garbage
            self._seen = len(self._buffer)
            if self._skipping or self._seen > MAX_LINE_BYTES:
                self._skipping, self._seen = True, 0
                self._buffer.clear()
            chunk = await self._sandbox.stdout.receive_some(CHUNK_BYTES)
            if not chunk:
                await self._lose()
            self._buffer += chunk

    async def _lose(self) -> None:
        """Find out how the program ended, and raise `AgentLost`."""
        raise AgentLost(*await how_lost(self._sandbox, self._clock))

    async def greet(self) -> object:
        """Wait until the agent is being started, and return what was kept of its last session."""
        with self._clock.move_on_after(STALL_S):
            while (message := await self.receive()).get("method") != "_sandbox/ready":
                pass
            return params_of(message).get("kept")
        raise AgentError(f"the agent's sandbox did not begin within {STALL_S:g} s")

    async def keep(self, what: Message) -> None:
        """Keep a few words for the next life, in the home that stays with the worktree."""
        await self.send({"method": "_sandbox/keep", "params": what})

    async def finish(self) -> None:
        """Close the agent's input, and give it time to put its papers away and end."""
        with self._clock.move_on_after(END_S), contextlib.suppress(AgentLost):
            await self.send({"method": "_sandbox/finish"})
            while True:
                await self.receive()


def message_of(**fields: object) -> Message:
    """Return a message of the protocol."""
    return {"jsonrpc": "2.0", **fields}


def params_of(message: Message) -> Message:
    """Return the parameters of a message, as far as they are an object."""
    params = message.get("params")
    return params if isinstance(params, dict) else {}


@asynccontextmanager
async def open_link(
    session: Session, env: Mapping[str, str], ports: Ports | None = None
) -> AsyncIterator[Link]:
    """Start the agent's program in a sandbox; leaving the block ends all that was started there."""
    command = session.spec.options.command
    if command is None:
        raise AgentError('the runtime "acp" was given no options.command')
    home = session.open_home()
    spec = Spec(
        label=session.agent_id,
        command=command_of(__package__ or "", _PARTS, *command),
        workspace=session.workspace,
        env={
            **session.spec.options.env,
            **env,
            "HOME": session.backend.seen(home, HOME_TARGET),
        },
        binds=(*session.binds, Bind(home, HOME_TARGET, writable=True)),
        limits=session.limits,
        listen=ports,
    )
    try:
        async with session.backend.open(spec) as sandbox:
            yield Link(sandbox, session.backend.clock)
    except CommandNotFound as missing:
        raise no_python(session, "acp") from missing
