"""One connection of a client: HTTP by h11, and the ways in which a connection can end badly."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import h11
import trio

RECEIVE_BYTES = 65536
BODY_BYTES = 32_000_000
#: What a client may send while it is being answered, before it is no longer read.
AHEAD_BYTES = 1_000_000


class ClientLeftError(Exception):
    """The client closed the connection, or it broke."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A whole request: path with query, headers by lower-case name, body (None where it is too long)."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None


class Connection:
    """A client's connection; answers are sent in parts, as slowly as a script wants."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER)
        self._piece = 0
        self._pause_s = 0.0

    async def ask(self) -> Asked | None:
        """Wait for a whole request; None is the connection's end in good order."""
        try:
            if self._http.our_state is h11.DONE:
                self._http.start_next_cycle()
            head = await self._next()
            if not isinstance(head, h11.Request):
                return None
            body = bytearray()
            while isinstance(event := await self._next(), h11.Data):
                if len(body) <= BODY_BYTES:
                    body += event.data
        except (h11.ProtocolError, trio.BrokenResourceError) as broken:
            raise ClientLeftError(str(broken)) from broken
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        return Asked(
            head.method.decode("latin-1"),
            head.target.decode("latin-1"),
            headers,
            bytes(body) if len(body) <= BODY_BYTES else None,
        )

    async def _next(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._stream.receive_some(RECEIVE_BYTES))

    async def until_left(self) -> None:
        """Return when the client has left; what it sends ahead is kept for the next request."""
        ahead = 0
        while ahead < AHEAD_BYTES:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError:
                return
            except trio.ClosedResourceError:  # by a script, not by the client
                break
            if not data:
                return
            self._http.receive_data(data)
            ahead += len(data)
        await trio.sleep_forever()

    def slow_down(self, pause_s: float, piece_bytes: int) -> None:
        """Send bodies in pieces of that size (0: as they are) with a pause before each."""
        self._pause_s, self._piece = pause_s, piece_bytes

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the answer's head."""
        await self._send(h11.Response(status_code=status, headers=list(headers.items())))

    async def part(self, data: bytes) -> None:
        """Send a part of the answer's body."""
        size = self._piece or max(1, len(data))
        for start in range(0, len(data), size):
            if self._pause_s:
                await trio.sleep(self._pause_s)
            await self._send(h11.Data(data=data[start : start + size]))

    async def end(self) -> None:
        """Say that the answer is complete."""
        await self._send(h11.EndOfMessage())

    async def whole(
        self, status: int, headers: Mapping[str, str], body: object, *, empty: bool = False
    ) -> None:
        """Send a whole answer as JSON; `empty` leaves out the body, as for HEAD."""
        data = json.dumps(body).encode()
        known = {"content-type": "application/json", "content-length": str(len(data))}
        await self.head(status, {**headers, **known})
        if not empty:
            await self.part(data)
        await self.end()

    async def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            raise ClientLeftError(str(broken)) from broken

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self.raw(data)

    @property
    def goes_on(self) -> bool:
        """Whether another request may come."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def cut(self, *, reset: bool) -> None:
        """End the connection without another word: FIN, or RST where the transport knows it."""
        below: Sequence[trio.abc.Stream] = [self._stream]
        if isinstance(self._stream, trio.SSLStream):
            below = [self._stream.transport_stream]
        for stream in below:
            if reset and isinstance(stream, trio.SocketStream):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.aclose_forcefully(stream)


def tls_of(certificate: str) -> ssl.SSLContext:
    """Return the server's side of TLS; the PEM file holds key and certificate chain."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context
