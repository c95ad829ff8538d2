"""A door that tests knock at: a session on plain processes, a listener on the loopback, a client by hand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import h11
import trio
from pydantic import SecretStr

from orchestrator.agents.base import Answer, Meter, Request, Session
from orchestrator.agents.proxy import GRACE_S, Door, open_door
from orchestrator.agents.upstream import Patience, Upstream
from orchestrator.core.events import AgentTurn, AgentUsage, Event
from orchestrator.core.trouble import ProviderFailure
from tests.agents.conftest import Log, OpenSession, spec_of
from tests.kit.messages_api import ScriptedApi
from tests.kit.plain_meter import PlainMeter

MODEL = "claude-opus-5-5"
OURS = "sk-ours"
IDS = {"task_id": "T-1", "agent_id": "agent-1"}
SHORT = Patience(connect_s=1, send_s=1, first_byte_s=0.2, idle_s=0.2)


class PatientMeter:
    """Asks again at once after each failure that passes, unless a part was passed on already."""

    def __init__(self, inner: PlainMeter) -> None:
        self.inner = inner
        self.failures: list[ProviderFailure] = []

    async def ask(self, request: Request, ask: Callable[[], Awaitable[Answer]], *, prompt: int) -> Answer:
        """See `Meter`."""

        async def again() -> Answer:
            while True:
                try:
                    return await ask()
                except ProviderFailure as failure:
                    self.failures.append(failure)
                    if failure.begun or not failure.trouble.passes:
                        raise

        return await self.inner.ask(request, again, prompt=prompt)

    async def check_tools(self, calls: int) -> None:
        """See `Meter`."""

    async def count_tools(self, calls: int, content: str | None = None) -> None:
        """See `Meter`."""


class Knocker:
    """A client that says exactly what a test wants."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def say(self, words: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send_all(words)

    async def ask(self, method: str, target: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        """Make a request and return status and body."""
        await self.begin(method, target, body, **headers)
        return await self.answer()

    async def begin(self, method: str, target: str, body: object = None, **headers: str) -> None:
        """Make a request."""
        if self.http.our_state is h11.DONE:
            self.http.start_next_cycle()
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"host": "door", "anthropic-version": "2023-06-01", **headers}
        if content:
            named["content-length"] = str(len(content))
        lines = [(name.replace("_", "-"), value) for name, value in named.items()]
        words = self.http.send(h11.Request(method=method, target=target, headers=lines)) or b""
        words += (self.http.send(h11.Data(data=content)) or b"") if content else b""
        await self.say(words + (self.http.send(h11.EndOfMessage()) or b""))

    async def event(self) -> h11.Event:
        """Return the next part of an answer; a broken one is an `h11.RemoteProtocolError`."""
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.Event):
                return event
            self.http.receive_data(bytes(await self.stream.receive_some(65536)))

    async def answer(self) -> tuple[int, bytes]:
        """Return status and body of an answer that comes to its end."""
        head, parts = await self.event(), []
        assert isinstance(head, h11.Response), head
        while isinstance(part := await self.event(), h11.Data):
            parts.append(bytes(part.data))
        return head.status_code, b"".join(parts)

    async def rest(self) -> bytes:
        """Return whatever comes until the connection ends, however it does."""
        parts = []
        try:
            while chunk := await self.stream.receive_some(65536):
                parts.append(bytes(chunk))
        except trio.BrokenResourceError:
            parts.append(b"<reset>")
        return b"".join(parts)


@dataclass(frozen=True)
class Doorway:
    """An open door, its address, and what it journaled."""

    door: Door
    port: int
    log: Log

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def knock(self) -> AsyncIterator[Knocker]:
        """Connect."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            yield Knocker(stream)

    async def ask(self, method: str, target: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        """Make one request on a connection of its own."""
        async with self.knock() as knocker:
            return await knocker.ask(method, target, body, **headers)

    def turns(self) -> list[AgentTurn]:
        """Return the turns in the journal."""
        return [event for event in self.log.events if isinstance(event, AgentTurn)]

    def usages(self) -> list[AgentUsage]:
        """Return what was spent, by the journal."""
        return [event for event in self.log.events if isinstance(event, AgentUsage)]


@dataclass(frozen=True)
class Doors:
    """Opens doors for a session."""

    open_session: OpenSession
    log: Log

    @asynccontextmanager
    async def open(
        self,
        api: ScriptedApi | str,
        *,
        models: Sequence[str] = (MODEL,),
        meter: Meter | None = None,
        patience: Patience | None = None,
        key: str | None = OURS,
        grace_s: float = GRACE_S,
    ) -> AsyncIterator[Doorway]:
        """Open a door to the API, with a listener on the loopback."""
        session: Session = self.open_session(spec_of("true"))
        if meter is not None:
            session = replace(session, meter=meter)
        url = api if isinstance(api, str) else api.url
        upstream = Upstream(url, SecretStr(key) if key else None, patience or Patience())
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener, open_door(session, upstream, models, grace_s=grace_s) as door:
            door.listen_nowait(listener)
            yield Doorway(door, listener.socket.getsockname()[1], self.log)

    def meter(self) -> PatientMeter:
        """Return a meter that tries again."""
        return PatientMeter(PlainMeter(IDS, self.log.record))


class Gate:
    """A journal whose commits wait until they are let through."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.reached = trio.Event()
        self.open = trio.Event()

    async def record(self, *events: Event) -> None:
        """See `PlainMeter`."""
        self.events += events
        self.reached.set()
        await self.open.wait()


def asked(prompt: str, **more: object) -> dict[str, Any]:
    """Return the body of a request for a message."""
    return {
        "model": MODEL,
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": prompt}],
        "tools": [{"type": "bash_20250124", "name": "bash"}],
        **more,
    }


class CannedApi:
    """A provider that says the same bytes to every connection, and then keeps silent or ends."""

    def __init__(self, words: bytes, *, then_hangs: bool = False) -> None:
        self.words = words
        self.then_hangs = then_hangs
        self.port = 0
        self.left = trio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Serve while the block lasts."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._serve, [listener])
            yield self
            nursery.cancel_scope.cancel()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            await stream.receive_some(1 << 20)
            await stream.send_all(self.words)
            while self.then_hangs and await stream.receive_some(1 << 20):
                continue
        except trio.BrokenResourceError:
            pass
        finally:
            self.left.set()
            await trio.aclose_forcefully(stream)
