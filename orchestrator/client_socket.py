"""A WebSocket to the supervisor, without a child of its own: pings are answered while somebody reads.

Used by `client` alone; works over the unix socket too.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

from orchestrator.client_http import CONNECT_S, PIECE_BYTES, Address, Broken, Response, close_nowait, connect
from orchestrator.client_stream import SILENCE_S, Json, Unreachable, refusal

MAX_MESSAGE = 4 * 1024 * 1024
#: Of what is typed at once, what goes into one message.
TYPED_BYTES = 16 * 1024


class Socket:
    """One WebSocket, from its handshake to its end."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._sending = trio.Lock()

    async def _receive(self) -> TextMessage | BytesMessage | CloseConnection:
        """Return the next message, perhaps a part of it, or the end; pings are answered."""
        while True:
            with trio.move_on_after(SILENCE_S) as silence:  # the server pings more often than that
                event = await self._next()
            if silence.cancelled_caught:
                raise Unreachable(f"the WebSocket was silent for {SILENCE_S:g} s")
            if isinstance(event, Ping):
                await self._send(event.response())
            elif isinstance(event, TextMessage | BytesMessage | CloseConnection):
                return event

    async def open(self, host: str, target: str, headers: Mapping[str, str]) -> None:
        """Shake hands; raises `ClientError` where the supervisor refuses."""
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send(Request(host=host, target=target, extra_headers=extra))
        while not isinstance(event := await self._next(), AcceptConnection):
            if isinstance(event, RejectConnection):
                raise refusal(await self._refused(event))
            if isinstance(event, CloseConnection):
                raise Broken("the supervisor closed the connection")

    def close_nowait(self) -> None:
        """Close the connection; the server takes that for a goodbye."""
        close_nowait(self._stream)

    async def _refused(self, rejected: RejectConnection) -> Response:
        body = bytearray()
        while rejected.has_body and isinstance(part := await self._next(), RejectData):
            body += part.data
            if part.body_finished or len(body) > MAX_MESSAGE:
                break
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in rejected.headers}
        return Response(rejected.status_code, headers, bytes(body))

    async def _next(self) -> Event:
        """Return the next event of the connection; its end is an event too."""
        try:
            while True:
                for event in self._protocol.events():
                    return event
                data = bytes(await self._stream.receive_some(PIECE_BYTES))
                self._protocol.receive_data(data or None)
        except (RemoteProtocolError, trio.BrokenResourceError, OSError) as error:
            raise Unreachable(f"the WebSocket broke: {error!r}") from error

    async def _send(self, event: Event) -> None:
        async with self._sending:
            try:
                await self._stream.send_all(self._protocol.send(event))
            except (trio.BrokenResourceError, OSError) as error:
                raise Broken(str(error)) from error


class SocketEvents(Socket):
    """Events over a WebSocket; where it breaks, `cursor` is the `after` to go on from."""

    cursor: int | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Json:
        text = ""
        while True:
            match await self._receive():
                case TextMessage(data=data, message_finished=whole):
                    text += data
                    if len(text) > MAX_MESSAGE:
                        raise Unreachable(f"a message of more than {MAX_MESSAGE} characters")
                    if whole:
                        return self._take(json.loads(text))
                case CloseConnection(code=code, reason=reason):
                    raise _closed(code, reason)

    async def subscribe(self, **wanted: Any) -> None:  # noqa: ANN401 - any JSON value
        """Ask for other events: `after`, `types`, `agentId`, `taskId`."""
        await self._send(Message(data=json.dumps({"subscribe": wanted})))

    def _take(self, message: Json) -> Json:
        self.cursor = message.get("seq", self.cursor)
        return message


class TerminalSocket(Socket):
    """An agent's terminal; what it shows goes through `core.tame` before a person sees it."""

    #: Why it ended, once `receive_some` has returned nothing.
    reason = ""

    async def receive_some(self) -> bytes:
        """Return what is shown next, nothing once the program has ended; any other end is `Unreachable`."""
        while True:
            match await self._receive():
                case BytesMessage(data=data) if data:
                    return bytes(data)
                case CloseConnection(code=1000, reason=reason):
                    self.reason = reason or ""
                    return b""
                case CloseConnection(code=code, reason=reason):
                    raise _closed(code, reason)

    async def type(self, data: bytes) -> None:
        """Type; where the program reads nothing for too long, the supervisor closes the connection."""
        for start in range(0, len(data), TYPED_BYTES):
            await self._tell(Message(data=data[start : start + TYPED_BYTES]))

    async def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size, for all who look at it."""
        await self._tell(Message(data=json.dumps({"resize": [columns, rows]})))

    async def _tell(self, event: Event) -> None:
        try:
            await self._send(event)
        except Broken as error:
            raise Unreachable(f"the WebSocket broke: {error}") from error


def _closed(code: int, reason: str | None) -> Unreachable:
    return Unreachable(f"the WebSocket was closed: {code} {reason or ''}".rstrip())


S = TypeVar("S", bound=Socket)


@asynccontextmanager
async def open_websocket(kind: type[S], address: Address, target: str) -> AsyncIterator[S]:
    """Open a WebSocket; raises `ClientError` where it is refused and `Unreachable` where nobody answers."""
    try:
        events = kind(await connect(address))
    except Broken as error:
        detail = f"{address.url} takes no WebSocket: {error}"
        raise Unreachable(detail, nobody_listens=error.refused) from error
    try:
        try:
            with trio.fail_after(CONNECT_S):
                await events.open(address.netloc, target, address.headers)
        except (Broken, trio.TooSlowError) as error:
            raise Unreachable(f"{address.url} takes no WebSocket: {error!r}") from error
        yield events
    finally:
        events.close_nowait()
