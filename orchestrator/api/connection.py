r"""One connection: hypercorn's HTTP/1.1 and WebSocket, with limits of our own.

The invariant: a connection ends when it is cancelled, and a hostile one ends alone. Hypercorn shields its
sends for ever, so that one client that stopped reading holds up a shutdown; it speaks HTTP/2 in the clear
to whoever asks; and it lets an exception that a header can provoke (`Sec-WebSocket-Extensions: \xff`)
take down the whole server. Made by `server` alone.
"""

from __future__ import annotations

import logging
import os
import socket
import struct

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import ASGIHTTPState
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, H11SendableEvent, LifespanState
from wsproto.connection import ConnectionState as WebSocketState

from orchestrator.api import problem
from orchestrator.api.door import CSP, SECURITY_HEADERS

#: What the protocol's own parser refuses, by the status that it proposes.
UNREADABLE = {431: problem.HeadersTooLarge, 501: problem.TransferCodingUnknown}
#: Seconds that a client may leave what was sent to it unread.
SEND_DEADLINE_S = 30.0
KEEP_ALIVE_S = 30.0
WEBSOCKET_MESSAGE_BYTES = 64 * 1024
PING_S = 20.0

log = logging.getLogger("orchestrator.api")


def make_config() -> Config:
    """Return hypercorn's settings."""
    config = Config()
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.keep_alive_max_requests = 100_000
    config.websocket_max_message_size = WEBSOCKET_MESSAGE_BYTES
    config.websocket_ping_interval = PING_S
    config.accesslog = None
    config.errorlog = log
    return config


class _Http1(H11Protocol):
    """HTTP/1.1 that stays what it is."""

    #: What waits for the body.
    _head = b""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Refuse HTTP/2 out of the blue; an offer to go over to it may be passed over, and is."""
        if event.method == b"PRI":
            await super()._check_protocol(event)

    async def _send_error_response(self, status_code: int) -> None:
        """Answer what cannot be read as a request with a problem document; the connection ends with it."""
        kind = UNREADABLE.get(status_code, problem.RequestUnreadable)
        body = problem.render(kind())
        headers = [
            (b"content-type", problem.MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            CSP,
            *SECURITY_HEADERS,
        ]
        await self._send_h11_event(h11.Response(status_code=kind.status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        """Send; the head of an answer of a known length goes out with its body, in one piece."""
        refused = False
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            refused = isinstance(self.connection, H11WSConnection)
            if not refused and self.connection.their_state is not h11.ERROR:
                raise
            data = None
        if data is None:
            if refused:  # a handshake (400), while the application was accepting it
                await self.send(Closed())
            return
        if isinstance(event, h11.Response) and any(name == b"content-length" for name, _ in event.headers):
            self._head = data
            return
        data, self._head = self._head + data, b""
        if data:
            await self.send(RawData(data=data))


class Connection(TCPServer):
    """A TCP or unix connection."""

    def __init__(
        self, app: ASGIWrapper, config: Config, context: WorkerContext, stream: trio.SocketStream
    ) -> None:
        self._peer_uid = peer_uid(stream.socket)
        state = LifespanState({"peer_uid": self._peer_uid, "connection": self})
        super().__init__(app, config, context, state, stream)  # type: ignore[arg-type]  # it takes plain streams too
        self._broken = False

    @property  # type: ignore[override]  # the same methods, by another name
    def protocol(self) -> H11Protocol:
        """HTTP/1.1 without the wrapper that would go over to HTTP/2."""
        return self._h11

    @protocol.setter
    def protocol(self, wrapper: ProtocolWrapper) -> None:
        """Take the wrapper off."""
        given = wrapper.protocol
        assert isinstance(given, H11Protocol)  # noqa: S101 - for the type checker: no TLS, so no ALPN
        self._h11 = _Http1(
            given.app,
            given.config,
            given.context,
            given.task_group,
            given.connection_state,
            given.ssl,
            given.client,
            given.server,
            given.send,
        )

    async def run(self) -> None:
        """Serve until the client or a cancellation ends it; what goes wrong ends this connection alone."""
        try:
            await super().run()
        except Exception as error:
            log.info("a connection was cut: %s", _first(error), exc_info=log.isEnabledFor(logging.DEBUG))
        finally:
            self.abort()

    async def _read_data(self) -> None:
        """Read to the end of the connection, then end what belongs to it: the pings sleep on otherwise."""
        await super()._read_data()
        self._task_group._nursery.cancel_scope.cancel()  # type: ignore[union-attr]  # noqa: SLF001

    async def protocol_send(self, event: Event) -> None:
        """Send, within a deadline; after half a message nothing more may follow."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            if self._broken:
                return
            sent = await self._send(event.data)
        if not sent:
            await self.protocol.handle(Closed())

    @property
    def chunked(self) -> bool:
        """Whether the body of an answer without a length goes out in chunks."""
        connection = self._h11.connection
        return not isinstance(connection, h11.Connection) or connection.their_http_version != b"1.0"

    def write_nowait(self, data: bytes) -> bytes:
        """Send whole frames or chunks past the protocol, as much as the kernel takes; return the rest.

        The rest must be written by `write` before anything else. What comes after the last word (a close, the
        end of the answer, half a message) is dropped.
        """
        if self._broken or not self._speaking():
            return b""
        if self.send_lock.locked():
            return data
        try:
            sent = os.write(self.stream.socket.fileno(), data)
        except BlockingIOError:
            return data
        except OSError:
            return b""  # gone, which the reading side hears too
        if sent < len(data):
            self._broken = True  # unless the rest goes out
        return data[sent:]

    async def write(self, rest: bytes) -> None:
        """Send what `write_nowait` returned, within the same deadline."""
        async with self.send_lock:
            sent = await self._send(rest)
        if not sent:
            await self.protocol.handle(Closed())

    def _speaking(self) -> bool:
        """Return whether the protocol has not had its last word."""
        stream = self._h11.stream
        if isinstance(stream, WSStream):
            return stream.connection.state is WebSocketState.OPEN
        return stream is not None and stream.state is ASGIHTTPState.RESPONSE

    async def _send(self, data: bytes) -> bool:
        """Send within the deadline; return whether all of it went out."""
        self._broken = True  # until then: a cancellation may come in the middle
        try:
            with trio.move_on_after(SEND_DEADLINE_S) as deadline:
                await self.stream.send_all(data)
                self._broken = False
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            return False  # gone, or being closed at this moment by the reading side
        if deadline.cancelled_caught:
            self.abort()
        return not self._broken

    def abort(self) -> None:
        """Cut the connection now, without waiting for what was not read."""
        stdlib = self.stream.socket
        try:
            if stdlib.family != socket.AF_UNIX and self._broken:
                stdlib.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stdlib.shutdown(socket.SHUT_RDWR)
        except (OSError, trio.ClosedResourceError):
            pass  # it is gone already
        stdlib.close()


def peer_uid(connection: trio.socket.SocketType) -> int | None:
    """Return the user at the other end of a unix connection, as the kernel noted it at `connect`."""
    if connection.family != socket.AF_UNIX:
        return None
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error)[:200]}"


def wrap(app: object) -> ASGIWrapper:
    """Return the application as hypercorn calls it."""
    return ASGIWrapper(app)  # type: ignore[arg-type]  # QuartTrio is an ASGI application


def make_context() -> WorkerContext:
    """Return what all connections share: the mark that the server is going down."""
    return WorkerContext(None)


__all__ = ["Connection", "ConnectionState", "make_config", "make_context", "peer_uid", "wrap"]
