"""HTTP/1.1 as the client needs it: one request a connection, the answer whole or piece by piece.

A general HTTP client reads a body through nested generators, and a reader that leaves in the middle leaves
them to the garbage collector; here, leaving is closing a socket. Used by the other `client` modules, and by
`gates.coordinator`.
"""

from __future__ import annotations

import errno
import functools
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import h11
import trio

CONNECT_S = 10.0
PIECE_BYTES = 64 * 1024
#: Heads that may come before the answer's own (100, 103).
MAX_INTERIM = 8
#: Bytes of an answer that is read whole.
MAX_ANSWER_BYTES = 256 * 1024 * 1024
NOBODY = {errno.ECONNREFUSED, errno.ENOENT}


class Broken(Exception):
    """The connection could not be made, or broke.

    `refused` says that nobody listens there, `garbled` that what came is no HTTP.
    """

    def __init__(self, why: str, *, refused: bool = False, garbled: bool = False) -> None:
        super().__init__(why)
        self.refused = refused
        self.garbled = garbled


@dataclass(frozen=True, slots=True)
class Address:
    """Where the supervisor is, and the headers that open its door."""

    url: str
    socket: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def netloc(self) -> str:
        """The host and the port, as the Host header has them."""
        return urlsplit(self.url).netloc

    def target(self, path: str, query: Mapping[str, str]) -> str:
        """Return the target of a request."""
        return urlsplit(self.url).path.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Answer:
    """A response whose body is still to come."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._closed = False
        self.status = 0
        self.headers: dict[str, str] = {}

    async def begin(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send the request and read the head of the response."""
        request = h11.Request(method=method, target=target, headers=list(headers.items()))
        parts: list[h11.Event] = [request, h11.Data(data=body), h11.EndOfMessage()]
        sent = b"".join(self._http.send(part) or b"" for part in parts)
        with suppress(trio.BrokenResourceError):  # refused in the middle of the body: the answer says why
            await self._stream.send_all(sent)
        interim = 0
        while not isinstance(event := await self._next(), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise Broken("it closed the connection")
            if (interim := interim + 1) > MAX_INTERIM:
                raise Broken("it never comes to its answer", garbled=True)
        self.status = event.status_code
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}

    async def read_some(self) -> bytes:
        """Return the next piece of the body, nothing at its end."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Data) and event.data:
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return b""

    async def read_all(self, max_bytes: int = MAX_ANSWER_BYTES) -> Response:
        """Return the whole answer."""
        body = bytearray()
        while piece := await self.read_some():
            body += piece
            if len(body) > max_bytes:
                raise Broken(f"its answer is larger than {max_bytes} bytes", garbled=True)
        return Response(self.status, self.headers, bytes(body))

    async def _next(self) -> h11.Event:
        """Return the next event of the connection."""
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                data = bytes(await self._stream.receive_some(PIECE_BYTES))
                self._closed = not data
                self._http.receive_data(data)
        except h11.RemoteProtocolError as error:
            silent = self._closed and not self.status
            why = "it closed the connection before it answered" if silent else str(error)
            raise Broken(why, garbled=not self._closed) from error
        except (trio.BrokenResourceError, OSError) as error:
            raise Broken(str(error) or str(error.__cause__ or "the connection broke")) from error
        if isinstance(event, h11.Event):
            return event
        raise Broken("it sent more than one answer", garbled=True)

    def close_nowait(self) -> None:
        """Close the connection, without a word to the other side."""
        close_nowait(self._stream)


def close_nowait(stream: trio.abc.Stream) -> None:
    """Close a connection that `connect` made."""
    inner = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if isinstance(inner, trio.SocketStream):
        inner.socket.close()


async def open_answer(
    address: Address, target: str, headers: Mapping[str, str], *, method: str = "GET", body: bytes = b""
) -> Answer:
    """Connect, ask, and return the answer, which the caller closes; raises `Broken`."""
    answer = Answer(await connect(address))
    done = False
    length = {"Content-Length": str(len(body))} if body or method == "POST" else {}
    try:
        await answer.begin(
            method, target, {"Host": address.netloc, **length, **address.headers, **headers}, body
        )
        done = True
    finally:
        if not done:
            answer.close_nowait()
    return answer


async def ask(
    address: Address, method: str, target: str, headers: Mapping[str, str], *, body: bytes, timeout_s: float
) -> Response:
    """Ask, and return the whole answer; raises `Broken`."""
    with trio.move_on_after(timeout_s):
        answer = await open_answer(address, target, headers, method=method, body=body)
        try:
            return await answer.read_all()
        finally:
            answer.close_nowait()
    raise Broken(f"no answer within {timeout_s:g} s")


async def connect(address: Address) -> trio.abc.Stream:
    """Open a connection to the supervisor; raises `Broken`."""
    try:
        with trio.move_on_after(CONNECT_S):
            return await _connect(address)
    except (OSError, UnicodeError) as error:  # the latter of a name that can be no host's
        raise Broken(str(error), refused=_nobody(error)) from error
    except trio.BrokenResourceError as error:
        raise Broken(str(error.__cause__ or error) or "the connection broke") from error
    raise Broken(f"no connection within {CONNECT_S:g} s")


async def _connect(address: Address) -> trio.abc.Stream:
    if address.socket is not None:
        return await trio.open_unix_socket(str(address.socket))
    parts = urlsplit(address.url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        stream = await trio.open_ssl_over_tcp_stream(host, parts.port or 443, ssl_context=_trusting())
        return await _shaken(stream)
    return await trio.open_tcp_stream(host, parts.port or 80)


async def _shaken(stream: trio.SSLStream[trio.SocketStream]) -> trio.abc.Stream:
    """Shake hands before anything is sent: only so is it told what is wrong with a certificate."""
    done = False
    try:
        await stream.do_handshake()
        done = True
    finally:
        if not done:
            close_nowait(stream)
    return stream


@functools.cache
def _trusting() -> ssl.SSLContext:
    """Return the context that trusts whom the host trusts; reading those takes a while."""
    return ssl.create_default_context()


def _nobody(error: BaseException | None) -> bool:
    """Return whether every reason below the error is that nobody listens."""
    if isinstance(error, BaseExceptionGroup):
        return all(_nobody(each) for each in error.exceptions)
    if isinstance(error, OSError) and error.errno in NOBODY:
        return True
    return error is not None and _nobody(error.__cause__)
