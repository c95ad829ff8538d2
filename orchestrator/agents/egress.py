"""What an agent reaches outside, and all that it does: a proxy of ours, for tunnels (CONNECT) and plain HTTP.

The client names a host; we judge it, resolve it, judge every answer, and speak to exactly one of these
addresses. The invariant: not a byte goes to a host that the rules do not name, or to an address that was not
judged; of each host the first use, or refusal, is in the journal before anything comes of it. Caller:
`outlet`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import trio

from orchestrator.agents.fetching import Target, Unreachable, fetch
from orchestrator.agents.inbound import CHUNK_BYTES, Asked, ClientLeft, Inbound, Unreadable
from orchestrator.agents.serving import Server, watched
from orchestrator.core.address import Address, as_address
from orchestrator.core.egress import MB, Beyond, Place, Rules, check_answers, read_place
from orchestrator.core.events import AgentEvent, EgressAllowed, EgressRefused
from orchestrator.core.model import AgentId, TaskId
from orchestrator.core.text import escaped
from orchestrator.names import MAX_ADDRESSES, NamesUnknown, is_own, look_up
from sandbox.clock import Clock

CONNECT_S = 10.0
#: Hosts of one agent that are told of, allowed and refused ones together.
MAX_TOLD = 200
MAX_SHOWN = 255
_PLAIN = re.compile(r"http://([^/?#]*)(.*)")
_TEXT = {"content-type": "text/plain; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose egress it is, and where what happens is told."""

    task_id: str
    agent_id: str
    record: Callable[..., Awaitable[None]]
    output: Callable[[str, str], Awaitable[None]]
    clock: Clock


class Egress(Server):
    """One agent's proxy; made by `open_egress`."""

    max_connections = 64

    def __init__(self, subject: Subject, rules: Rules, nursery: trio.Nursery) -> None:
        super().__init__(subject.clock, nursery)
        self.rules = rules
        self._subject = subject
        #: How often a host that may be reached, or its name, did not answer.
        self.unanswered = 0
        self.up = 0
        self.down = 0
        self._told: set[tuple[str, int | None, bool]] = set()

    async def answer(self, inbound: Inbound, asked: Asked) -> bool:
        """See `Server`."""
        plain = _PLAIN.fullmatch(asked.target)
        shown, place = asked.target, None
        try:
            if asked.method == "CONNECT":
                place = read_place(asked.target)
            elif plain is None:
                raise Beyond("is asked of the proxy itself: it takes CONNECT host:port and http://host/")
            else:
                shown = plain[1]
                place = read_place(plain[1] if re.search(r":[0-9]+\Z", plain[1]) else f"{plain[1]}:80")
                if asked.method not in {"GET", "HEAD"}:
                    raise Beyond(f"is reached by GET and HEAD alone, not {asked.method}, unless over TLS")
            await inbound.body(0)
            addresses = await self._admit(place)
        except Beyond as beyond:
            return await self._deny(inbound, 403, place, escaped(shown)[:MAX_SHOWN], str(beyond))
        if plain is None:
            return await self._tunnel(inbound, place, addresses)
        return await watched(inbound, partial(self._fetch, inbound, asked, plain[2], place, addresses))

    async def refuse(self, inbound: Inbound, error: Unreadable) -> None:
        """See `Server`."""
        if not inbound.begun:
            with suppress(ClientLeft):
                await inbound.whole(error.status, f"{error}\n".encode(), _TEXT)

    async def _admit(self, place: Place) -> list[Address]:
        """Return the addresses that the place may be reached at, once that is journaled; raises `Beyond`."""
        if why := self.rules.allowance.beyond(self.up, self.down):
            raise Beyond(why)
        entry = self.rules.find(place)
        literal = as_address(place.host)
        try:
            found = [literal] if literal is not None else await look_up(place.host, place.port)
        except NamesUnknown as unknown:
            self.unanswered += 1
            raise Beyond(str(unknown)) from unknown
        check_answers(entry, found)
        if not entry.exact and any(map(is_own, found)):
            raise Beyond("is this host itself, whose services know its neighbours from strangers")
        if self._is_news(place.host, place.port, allowed=True):
            await self._record(EgressAllowed, host=place.host, port=place.port)
        return found[:MAX_ADDRESSES]

    async def _deny(self, inbound: Inbound, status: int, place: Place | None, shown: str, why: str) -> bool:
        """Refuse a host, and journal that, the first time."""
        await self._tell_refused(place, shown, why)
        return await self._say(inbound, status, f"egress: {place or shown} {why}\n")

    async def _tell_refused(self, place: Place | None, shown: str, why: str) -> None:
        host, port = (shown, None) if place is None else (place.host, place.port)
        if self._is_news(host, port, allowed=False):
            await self._record(EgressRefused, host=host, port=port, detail=why)
            await self._subject.output("system", f"egress: {place or shown} {why}")

    async def _tell_beyond(self, place: Place) -> None:
        """Journal, the first time, that a host was cut off in the middle, if it was."""
        if why := self.rules.allowance.beyond(self.up, self.down):
            await self._tell_refused(place, "", why)

    async def _say(self, inbound: Inbound, status: int, text: str) -> bool:
        if inbound.begun:
            return False
        await inbound.whole(status, text.encode(), _TEXT)
        return True

    def _is_news(self, host: str, port: int | None, *, allowed: bool) -> bool:
        """Return whether it is to be told, which it then counts as."""
        key = (host, port, allowed)
        if key in self._told or len(self._told) >= MAX_TOLD:
            return False
        self._told.add(key)
        return True

    async def _record(self, kind: type[AgentEvent], **fields: object) -> None:
        subject = self._subject
        ids = {"task_id": TaskId(subject.task_id), "agent_id": AgentId(subject.agent_id)}
        await subject.record(kind(**ids, **fields))

    async def _tunnel(self, inbound: Inbound, place: Place, addresses: list[Address]) -> bool:
        """Pass bytes on, both ways, until both sides have ended, or one breaks."""
        far = await _connect(place.port, addresses)
        if far is None:
            self.unanswered += 1
            return await self._say(inbound, 502, f"egress: {place} does not answer\n")
        try:
            await inbound.head(200, {})
            near, early = inbound.take_over()
            async with trio.open_nursery() as nursery:
                up, down = partial(self.spend, up=True), partial(self.spend, up=False)
                nursery.start_soon(_pump, near, far, nursery.cancel_scope, up, early)
                nursery.start_soon(_pump, far, near, nursery.cancel_scope, down)
        finally:
            far.socket.close()
        await self._tell_beyond(place)
        return False

    def spend(self, size: int, *, up: bool) -> bool:
        """Count bytes; return whether they may go."""
        if up:
            self.up += size
        else:
            self.down += size
        allowance = self.rules.allowance
        return self.up <= allowance.up_mb * MB and self.down <= allowance.down_mb * MB

    async def _fetch(
        self, inbound: Inbound, asked: Asked, path: str, place: Place, addresses: list[Address]
    ) -> bool:
        """Answer plain HTTP; a redirect is the client's own next request."""
        far = await _connect(place.port, addresses)
        try:
            if far is not None:
                host = str(place).removesuffix(":80")
                await fetch(inbound, asked, Target(host, path), far, self.spend)
                return True
        except Unreachable as error:
            await self._tell_beyond(place)
            return await self._say(inbound, 502, f"egress: {place} {error}\n")
        finally:
            if far is not None:
                far.socket.close()
        self.unanswered += 1
        return await self._say(inbound, 502, f"egress: {place} does not answer\n")


async def _pump(
    source: trio.abc.Stream,
    sink: trio.abc.HalfCloseableStream,
    scope: trio.CancelScope,
    spend: Callable[[int], bool],
    early: bytes = b"",
) -> None:
    """Pass on what comes from one side, `early` before it, and its end; a side that breaks ends both."""
    try:
        chunk: bytes | bytearray = early or await source.receive_some(CHUNK_BYTES)
        while chunk:
            if not spend(len(chunk)):
                scope.cancel(reason="the allowance is used up")
            await sink.send_all(chunk)
            chunk = await source.receive_some(CHUNK_BYTES)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        scope.cancel(reason="a side of the tunnel is gone")


async def _connect(port: int, addresses: list[Address]) -> trio.SocketStream | None:
    """Connect to the first of these addresses that answers; None where none does."""
    with trio.move_on_after(CONNECT_S):
        for address in addresses:
            family = trio.socket.AF_INET if address.version == 4 else trio.socket.AF_INET6
            made = trio.socket.socket(family, trio.socket.SOCK_STREAM)
            try:
                await made.connect((str(address), port))
            except OSError:
                made.close()
            except BaseException:
                made.close()
                raise
            else:
                return trio.SocketStream(made)
    return None


@asynccontextmanager
async def open_egress(subject: Subject, rules: Rules) -> AsyncIterator[Egress]:
    """Open an agent's proxy; leaving the block closes every connection of it."""
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield Egress(subject, rules, nursery)
        except Exception as raised:  # raised again below, and not in a group
            error = raised
        nursery.cancel_scope.cancel(reason="the agent's run is over")
    if error is not None:
        raise error
