"""One connection of a client inside a sandbox: HTTP/1.1, read with suspicion and answered in order.

The invariant: whatever comes, a connection holds no more than its bounds and ends alone, one whose client
takes its answer slowly too; deadlines are by the sandbox's clock, so that a client that is frozen in the
middle of a request loses none of its time. Who closes the sending half of the connection has left. Callers:
`proxy` and `egress`.
"""

from __future__ import annotations

import re
import select
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import h11
import trio

from sandbox.clock import Clock

CHUNK_BYTES = 65536
HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
#: Pieces that a body may come in, and of how many bytes further ones are at least, as each takes time.
FREE_PIECES, PIECE_BYTES = 1000, 512
#: What a client may send while it is being answered, before it is taken for one that has left.
AHEAD_BYTES = 64 * 1024
#: From a request's first byte to the end of its head; without a byte of its body.
HEAD_S = 20.0
BODY_S = 30.0
#: How long all parts of one answer wait for a client to take them, and the bytes for which it has a second
#: more: a place at the provider is held meanwhile. And how long one part waits at most.
SEND_S = 60.0
SLOWEST_BYTES_A_S = 64 * 1024
#: What of an answer goes to a client who takes it without waiting, however busy we are.
SMALL_BYTES = 4096
#: From the head of a request to the end of its body.
WHOLE_BODY_S = 300.0


_END_OF_HEAD = re.compile(rb"\n\r?\n")


class ClientLeft(Exception):
    """The client closed the connection, or does not read what it is sent."""


class Unreadable(Exception):
    """What the client sends is no request that is taken; `status` says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Asked:
    """The head of a request; header names are lower case, in the order in which they came."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        """Return the first header of that name."""
        return next((value for each, value in self.headers if each == name), None)


class Inbound:
    """See the module."""

    def __init__(self, stream: trio.SocketStream, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._ahead = 0
        self._tunnels = self._bare = False
        #: How long the client may keep the rest of this answer waiting.
        self._patience_s = SEND_S
        #: Whether the head of an answer is on its way.
        self.begun = False

    async def ask(self) -> Asked | None:
        """Return the head of the next request, or None at the end; raises `Unreadable`, `ClientLeft`."""
        if self._http.our_state is h11.DONE:
            if self._http.their_state is not h11.DONE:
                return None
            self._http.start_next_cycle()
            self._ahead, self.begun, self._patience_s = 0, False, SEND_S
            self._tunnels = self._bare = False
        if self._http.our_state is not h11.IDLE:
            return None
        event = self._parsed_head()
        if event is h11.NEED_DATA:
            await self._receive(None)
            scope = self._clock.move_on_after(HEAD_S)
            with scope:
                while (event := self._parsed_head()) is h11.NEED_DATA:
                    await self._receive(None)
            if scope.cancelled_caught:
                raise Unreadable(408, f"the head of the request did not come within {HEAD_S:g} s")
        if not isinstance(event, h11.Request):
            return None
        self._tunnels, self._bare = event.method == b"CONNECT", event.method == b"HEAD"
        return _read(event)

    async def body(self, most: int, take: Callable[[int], bool] = lambda size: True) -> bytes:
        """Return the body of the request; raises `Unreadable`, `ClientLeft`.

        `take` is asked for room for each piece as it comes.
        """
        parts: list[bytes] = []
        size = 0
        scope = self._clock.move_on_after(WHOLE_BODY_S)
        with scope:
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            while not isinstance(event := self._parsed(), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    parts.append(bytes(event.data))
                    size += len(event.data)
                    if size > most or not take(len(event.data)):
                        raise Unreadable(413, f"the body has more than {most} bytes, or others take the room")
                    if len(parts) > FREE_PIECES + size // PIECE_BYTES:
                        raise Unreadable(400, "the body comes in pieces that are too small")
                elif event is h11.NEED_DATA:
                    await self._receive(BODY_S)
                else:
                    raise ClientLeft
        if scope.cancelled_caught:
            raise Unreadable(408, f"the body of the request did not come within {WHOLE_BODY_S:g} s")
        return b"".join(parts)

    async def whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Answer at once."""
        await self.head(status, {**headers, "content-length": str(len(body))})
        await self.part(body)
        await self.end()

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer; without a length it goes in chunks."""
        self.begun = True
        tunnel = self._tunnels and status == 200
        close = (
            [] if tunnel or self._http.their_state is h11.DONE else [("connection", "close")]
        )  # the body is unread
        await self._send(h11.Response(status_code=status, headers=encoded([*headers.items(), *close])))

    async def part(self, content: bytes) -> None:
        """Pass a part of the body on; who asked by HEAD gets none."""
        if content and not self._bare:
            await self._send(h11.Data(data=content))

    async def end(self) -> None:
        """End the answer."""
        await self._send(h11.EndOfMessage())

    async def wait_left(self) -> None:
        """Wait, while an answer is made, until the client has left."""
        while self._ahead <= AHEAD_BYTES:
            try:
                chunk = await self._stream.receive_some(CHUNK_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not chunk:
                return
            self._ahead += len(chunk)
            self._http.receive_data(bytes(chunk))

    def take_over(self) -> tuple[trio.SocketStream, bytes]:
        """Return the connection itself, and what came on it since the request: it speaks HTTP no more."""
        return self._stream, self._http.trailing_data[0]

    def _parsed_head(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Parse a head, unless it has so many lines that this would take long."""
        come, _ = self._http.trailing_data
        end = _END_OF_HEAD.search(come)
        if come.count(b"\n", 0, end.start() if end else len(come)) > MAX_HEADERS + 1:
            raise Unreadable(431, f"the request has more than {MAX_HEADERS} headers")
        return self._parsed()

    def _parsed(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise Unreadable(error.error_status_hint, str(error)[:200]) from error

    async def _receive(self, within_s: float | None) -> None:
        scope = trio.CancelScope() if within_s is None else self._clock.move_on_after(within_s)
        try:
            with scope:
                chunk = await self._stream.receive_some(CHUNK_BYTES)
                if not chunk and self._http.their_state is not h11.IDLE:
                    raise ClientLeft  # in the middle of a request
                self._http.receive_data(bytes(chunk))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ClientLeft from None
        if scope.cancelled_caught:
            raise Unreadable(408, f"nothing came for {within_s:g} s")

    async def _send(self, event: h11.Event) -> None:
        content = self._http.send(event)
        if not content:
            return
        self._patience_s += len(content) / SLOWEST_BYTES_A_S
        began, kept = self._clock.now(), not _takes_more(self._stream.socket)
        scope = self._clock.move_on_after(min(SEND_S, self._patience_s))
        try:
            with scope:
                await self._stream.send_all(content)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ClientLeft from None
        if scope.cancelled_caught:
            raise ClientLeft
        if kept or len(content) > SMALL_BYTES:
            self._patience_s -= self._clock.now() - began


def _takes_more(sock: trio.socket.SocketType) -> bool:
    watch = select.poll()
    watch.register(sock.fileno(), select.POLLOUT)
    return bool(watch.poll(0))


def encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return headers as they go over a connection: bytes that are no ASCII leave as they came in."""
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]


def _read(event: h11.Request) -> Asked:
    headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
    names = [name for name, _ in headers]
    size = len(event.target) + sum(len(name) + len(value) for name, value in event.headers)
    if size > HEAD_BYTES:  # the parser minds only what is incomplete: one that came whole may be longer
        raise Unreadable(431, f"the head of the request has more than {HEAD_BYTES} bytes")
    if len(headers) > MAX_HEADERS:
        raise Unreadable(431, f"the request has more than {MAX_HEADERS} headers")
    if "transfer-encoding" in names and ("content-length" in names or event.http_version == b"1.0"):
        raise Unreadable(400, "the request says in two ways where its body ends")
    if "upgrade" in names:
        raise Unreadable(400, "there is no other protocol to go over to")
    return Asked(event.method.decode("ascii"), event.target.decode("ascii", "replace"), headers)
