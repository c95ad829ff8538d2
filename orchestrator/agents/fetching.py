"""One plain HTTP request, made for an agent's program: its head written anew, the answer passed on.

The invariant: the far side is asked for exactly the host that was judged, and learns nothing that was meant
for a proxy. Caller: `egress`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import h11
import trio

from orchestrator.agents.inbound import CHUNK_BYTES, HEAD_BYTES, Asked, Inbound, encoded

#: How long a host may say nothing.
IDLE_S = 120.0
BEYOND = "is cut off: the agent's allowance of bytes is used up"
#: What is between two neighbours, and no further.
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}

#: Counts bytes, and tells whether they may go.
Spend = Callable[..., bool]


class Unreachable(Exception):
    """The host gave no answer that can be passed on."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for: the host as its own header names it, and the path with its query."""

    host: str
    path: str


async def fetch(inbound: Inbound, asked: Asked, target: Target, far: trio.SocketStream, spend: Spend) -> None:
    """Ask the host at the other end of `far`, and pass its answer on; raises `Unreachable`, `ClientLeft`."""
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
    headers = [("host", target.host), *_passed(asked.headers, "host"), ("connection", "close")]
    path = target.path if target.path.startswith("/") else f"/{target.path}"
    try:
        words = http.send(h11.Request(method=asked.method, target=path, headers=encoded(headers))) or b""
    except h11.LocalProtocolError as error:
        raise Unreachable(f"cannot be asked that: {error}") from error
    words += http.send(h11.EndOfMessage()) or b""
    try:
        if not spend(len(words), up=True):
            raise Unreachable(BEYOND)
        await far.send_all(words)
        while not isinstance(event := await _next(http, far, spend), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                named = [(name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers]
                await inbound.head(event.status_code, dict(_passed(named)))
            elif isinstance(event, h11.Data):
                await inbound.part(bytes(event.data))
        await inbound.end()
    except h11.RemoteProtocolError as error:
        raise Unreachable(f"speaks no HTTP: {error!s:.200}") from error
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise Unreachable("broke off") from error


def _passed(headers: Iterable[tuple[str, str]], *also: str) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name not in _HOP_BY_HOP and name not in also]


async def _next(http: h11.Connection, far: trio.SocketStream, spend: Spend) -> h11.Event:
    """Return the next part of the answer."""
    with trio.move_on_after(IDLE_S):
        while True:
            event = http.next_event()
            if isinstance(event, h11.Response | h11.Data | h11.EndOfMessage):
                return event
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                raise Unreachable("broke off")
            if event is h11.NEED_DATA:
                chunk = bytes(await far.receive_some(CHUNK_BYTES))
                if not spend(len(chunk), up=False):
                    raise Unreachable(BEYOND)
                http.receive_data(chunk)
    raise Unreachable(f"said nothing for {IDLE_S:g} s")
