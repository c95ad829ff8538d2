"""The door: everything that is asked of a request before it is routed.

The invariant: nothing behind the door sees a request whose target, Host, Origin, token, rate or body was
not judged here, for HTTP and WebSocket alike; neither Quart nor hypercorn checks Host or Origin. The
order is: the form of the target, Host, Origin, token, rate, body. A kill, a freeze, a thaw and a drain
with a right token pass every rate limit, whatever else their address has sent.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol
from urllib.parse import urlsplit

import trio

from orchestrator.api import pages, problem
from orchestrator.api.access import Header, Tokens, authenticate
from orchestrator.api.limit import Buckets
from orchestrator.api.services import Limits
from orchestrator.errors import OrchestratorError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PUBLIC = frozenset({"/health", "/api/health", "/health/ready"})
UNLIMITED = re.compile(r"(/api)?/agents/(kill-all|[^/]+/kill)|/(freeze|thaw|drain)")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

#: What a body that is too large may go on sending before the connection is cut: closing at once would cut off
#: our own answer too.
DRAIN_BYTES = 32 * 1024 * 1024
DRAIN_S = 10.0

SECURITY_HEADERS: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
CSP = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class House(Protocol):
    """What the door has to know of what is behind it."""

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """The names by which it may be called."""
        ...

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of the web that may call it."""
        ...

    @property
    def api_key(self) -> str:
        """The token that opens it."""
        ...

    @property
    def limits(self) -> Limits:
        """How much one client may ask for."""
        ...


class Door:
    """An ASGI application around another."""

    def __init__(self, inner: App, house: House) -> None:
        limits = house.limits
        self._inner = inner
        self._hosts = frozenset(name.lower().strip("[]") for name in house.allowed_hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in house.allowed_origins)
        self._tokens = Tokens.of_admin(house.api_key)
        self._limits: Limits = limits
        now = trio.current_time
        self._by_address = Buckets(2 * limits.requests_per_s, 2 * limits.burst, now)
        self._by_token = Buckets(limits.requests_per_s, limits.burst, now)
        self._refusals = Buckets(limits.refusals_per_s, limits.refusals_burst, now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] not in {"http", "websocket"}:
            await self._inner(scope, receive, send)
            return
        send = _secured(send)
        try:
            self._admit(scope)
            if scope["type"] == "http":
                scope["orchestrator.body"] = await self._body(scope, receive)
                exchange = _Exchange(receive, send)
                receive, send = exchange.receive, exchange.send
        except problem.TokenNeeded as error:
            browser = scope["type"] == "http" and b"text/html" in _only(scope, b"accept")
            if browser and pages.wanted(scope["path"]):
                await pages.send_locked(scope["path"], send)
            else:
                await refuse(scope, send, error)
        except OrchestratorError as error:
            await refuse(scope, send, error)
        else:
            await self._inner(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        """Raise unless the request may go on; note in the scope who is calling."""
        method, path = scope.get("method", "GET"), scope["path"]
        if method not in METHODS:
            raise problem.MethodRefused(f"no path takes the method {method[:20]}")
        if not scope["raw_path"].startswith(b"/"):
            raise problem.RequestRefused("the request target must be a path")
        if _all(scope, b"transfer-encoding") and _all(scope, b"content-length"):
            # A proxy in front may take the other one for the length, and see another request here.
            raise problem.RequestRefused("the body has both Content-Length and Transfer-Encoding")
        self._judge_host(scope)
        self._judge_origin(scope, method)
        address = caller(scope)
        scope["orchestrator.principal"] = None
        # The framework decodes before it routes: an encoded slash would make two segments of one.
        encoded_slash = b"%2f" in scope["raw_path"].lower()
        if path in PUBLIC and not encoded_slash:
            _within(self._by_address.take_nowait(address))
            return
        peer_uid = scope.get("state", {}).get("peer_uid")
        try:
            principal = authenticate(self._tokens, scope["headers"], peer_uid)
        except problem.TokenNeeded:
            # Only who fails is counted by address: else a guesser would shut out a kill with the right token.
            _within(self._refusals.take_nowait(address))
            raise
        if encoded_slash or UNLIMITED.fullmatch(path) is None:
            _within(self._by_token.take_nowait(principal.name))
        if encoded_slash or path.startswith("//"):  # the latter would be taken for the path with one slash
            raise problem.PathUnknown
        scope["orchestrator.principal"] = principal

    def _judge_host(self, scope: Scope) -> None:
        """Allow exactly the hosts of the list, at any port: else a page could rebind its own name to us."""
        hosts = _all(scope, b"host")
        name = _host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None or name not in self._hosts:
            raise problem.HostRefused

    def _judge_origin(self, scope: Scope, method: str) -> None:
        """Allow no origin, or one of the list; a browser names it where it can do harm."""
        origins = _all(scope, b"origin")
        if not origins:
            site = _only(scope, b"sec-fetch-site")
            unsafe = scope["type"] == "websocket" or method not in SAFE
            if unsafe and site not in {b"", b"same-origin", b"none"}:
                raise problem.OriginRefused
            return
        origin = origins[0].decode("latin-1").lower()
        if len(origins) > 1 or not (origin in self._origins or _origin_host(origin) in self._origins):
            raise problem.OriginRefused

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Return the whole body; past the limit, read on for a while so that the client sees the answer."""
        limit = self._limits.body_bytes
        said = _only(scope, b"content-length")
        declared = int(said[:20]) if said.isdigit() else 0
        body = bytearray()
        read, more = 0, True
        with trio.move_on_after(self._limits.body_s(declared)) as deadline:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise problem.BodyLate("the client went away")
                chunk = message.get("body", b"")
                more = message.get("more_body", False)
                read += len(chunk)
                if read <= limit:
                    body += chunk
                else:
                    body.clear()
                    deadline.deadline = min(deadline.deadline, trio.current_time() + DRAIN_S)
                    if read > DRAIN_BYTES:
                        break
        if max(read, declared) > limit:
            raise problem.BodyTooLarge(f"the body is larger than {limit} bytes")
        if more:
            raise problem.BodyLate
        return bytes(body)


async def refuse(scope: Scope, send: Send, error: OrchestratorError) -> None:
    """Answer with the problem document."""
    headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers_of(error).items()]
    await send_whole(scope, send, error.status, headers, problem.render(error))


async def send_whole(scope: Scope, send: Send, status: int, headers: list[Header], body: bytes) -> None:
    """Answer at once; a WebSocket that was not accepted takes an answer of HTTP too."""
    kind = "http" if scope["type"] == "http" else "websocket.http"
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": f"{kind}.response.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body, "more_body": False})


def caller(scope: Scope) -> str:
    """Return what the caller's limits are counted by: the address, or the user on the unix socket."""
    client = scope.get("client")
    return client[0] if client else f"uid:{scope.get('state', {}).get('peer_uid')}"


def _within(wait_s: float) -> None:
    if wait_s > 0:
        raise problem.RateLimited(wait_s)


def _all(scope: Scope, name: bytes) -> list[bytes]:
    headers: Iterable[Header] = scope["headers"]
    return [value.strip() for key, value in headers if key == name]


def _only(scope: Scope, name: bytes) -> bytes:
    return (_all(scope, name) or [b""])[0]


_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")


def _host_name(value: bytes) -> str | None:
    found = _HOST.fullmatch(value)
    return (found[1] or found[2]).decode("ascii").lower() if found else None


def _origin_host(origin: str) -> str | None:
    """Return the host of an origin of the web: `http://localhost:3000` is `localhost`."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    whole = f"{parts.scheme}://{parts.netloc}" == origin and parts.scheme in {"http", "https"}
    name = _host_name(parts.netloc.encode("latin-1"))
    return name if whole else None


class _Exchange:
    """One request whose body was read here, and its answer.

    Hypercorn says `disconnect` as soon as the answer is whole, and Quart then cancels whoever is still inside
    the last `send`: that is where hypercorn arms the idle timer, so the connection would never time out.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._read = False
        self._whole = False

    async def receive(self) -> dict[str, Any]:
        """Return the end of the body, then what comes later."""
        if not self._read:
            self._read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        message = await self._receive()
        if self._whole:
            await trio.sleep_forever()
        return message

    async def send(self, message: dict[str, Any]) -> None:
        """Send on, and note the end."""
        self._whole = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)


def _secured(send: Send) -> Send:
    async def send_secured(message: dict[str, Any]) -> None:
        if message["type"].endswith("response.start"):
            headers = list(message.get("headers", []))
            if not any(name.lower() == CSP[0] for name, _ in headers):
                headers.append(CSP)
            message = {**message, "headers": [*headers, *SECURITY_HEADERS]}
        await send(message)

    return send_secured
