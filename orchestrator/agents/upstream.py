"""The way to a model's provider: HTTP/1.1 over TLS, its certificate checked, its deadlines kept.

h11 over Trio's own TLS, as a client library would add what is not wanted here: redirects that carry the key
along, proxies from the environment, answers unpacked on the way, and an end of the connection that comes when
the library sees fit. Here it is closed in the instant in which nobody wants the answer any more.

The invariant: whatever the provider does, its answer ends as a `ProviderFailure` or as an answer to its end.
Caller: `proxy`, which has one `Pool` for each agent.
"""

from __future__ import annotations

import select
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

import h11
import trio
from pydantic import SecretStr

from orchestrator.agents.inbound import encoded
from orchestrator.agents.reaching import PROVIDER_URL, place_of, unreachable
from orchestrator.core.trouble import ProviderFailure, Trouble

#: Characters of a key that is sought in what is said: a shorter one is no secret, and stands in many words.
MIN_HIDDEN = 6
CHUNK_BYTES = 65536
HEAD_BYTES = 64 * 1024
#: Connections kept for an agent's next request, and for how long: shorter than servers keep them.
MAX_IDLE = 4
IDLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each step may take: seconds."""

    #: A provider that is not there is told within five seconds.
    connect_s: float = 4.5
    send_s: float = 60.0
    #: An answer that is no stream begins when it is finished.
    first_byte_s: float = 600.0
    #: A stream that has nothing to say pings.
    idle_s: float = 120.0


@dataclass(frozen=True)
class Upstream:
    """Where the provider is, and the key that opens it."""

    url: str = PROVIDER_URL
    key: SecretStr | None = None
    patience: Patience = field(default_factory=Patience)

    @cached_property
    def place(self) -> tuple[str, int, str]:
        """Host, port, and the path before the provider's own."""
        return *place_of(self.url), urlsplit(self.url).path.rstrip("/")

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken."""
        return self.url.startswith("https:")

    def hide(self, content: bytes) -> bytes:
        """Return what was said without our key, which some gateways repeat in their errors."""
        key = self.key.get_secret_value().encode() if self.key is not None else b""
        return content.replace(key, b"[hidden]") if len(key) >= MIN_HIDDEN else content

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """What is asked of the provider's certificate; SSL_CERT_FILE is OpenSSL's own setting."""
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # some distributions' Python takes older ones
        context.set_alpn_protocols(["http/1.1"])
        return context


class _Line:
    """A connection to the provider."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self.idle_since = 0.0

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket below."""
        below = self.stream.transport_stream if isinstance(self.stream, trio.SSLStream) else self.stream
        return below.socket


class Answer:
    """The provider's answer: its head, and its body as it comes."""

    def __init__(self, line: _Line, head: h11.Response, upstream: Upstream) -> None:
        self._line = line
        self._patience = upstream.patience
        self.hide = upstream.hide
        self.status = head.status_code
        self.headers: Mapping[str, str] = {
            name.decode("ascii"): upstream.hide(value).decode("latin-1") for name, value in head.headers
        }

    async def chunk(self) -> bytes:
        """Return the next bytes of the body, none at its end; raises `ProviderFailure`."""
        await trio.lowlevel.checkpoint()  # many small pieces may come at once
        event = await _next_event(self._line, self._patience.idle_s)
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def body(self, most: int) -> bytes:
        """Return the whole body, without our key; raises `ProviderFailure`, also where it is longer."""
        body = bytearray()
        while chunk := await self.chunk():
            body += chunk
            if len(body) > most:
                raise ProviderFailure(Trouble.SERVER_ERROR, f"an answer of more than {most} bytes")
        return self.hide(bytes(body))


class Pool:
    """The connections of one agent to its provider."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._idle: list[_Line] = []

    def close_nowait(self) -> None:
        """Close what nobody uses; what is in use is its user's."""
        for line in self._idle:
            line.socket.close()
        self._idle.clear()

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        sent: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[Answer]:
        """Make a request, with the key added; raises `ProviderFailure`.

        Leaving the block before the answer has ended closes the connection. `sent` is told once the provider
        may have begun to work on it.
        """
        upstream = self.upstream
        host, port, prefix = upstream.place
        name = f"[{host}]" if ":" in host else host
        own = {
            "host": name if port == (443 if upstream.secure else 80) else f"{name}:{port}",
            "accept-encoding": "identity",  # it is read on the way
            **({"content-length": str(len(body)), "content-type": "application/json"} if body else {}),
        }
        if upstream.key is not None:
            own["x-api-key"] = upstream.key.get_secret_value()
        line = self._reuse() or await self._connect(host, port)
        try:
            words = encoded({**headers, **own}.items())
            request = h11.Request(method=method, target=prefix + target, headers=words)
            sent()
            await self._send(line, request, body)
            head = await _next_event(line, upstream.patience.first_byte_s)
            if not isinstance(head, h11.Response):
                raise ProviderFailure(Trouble.NETWORK, "the connection ended without an answer")
            yield Answer(line, head, upstream)
        except BaseException:
            line.socket.close()
            raise
        if line.http.our_state is h11.DONE and line.http.their_state is h11.DONE:
            self._keep(line)
        else:
            line.socket.close()

    def _reuse(self) -> _Line | None:
        """Return a connection that was kept and that the provider has not closed meanwhile."""
        while self._idle:
            line = self._idle.pop()
            if trio.current_time() - line.idle_since < IDLE_S and not _readable(line.socket):
                line.http.start_next_cycle()
                return line
            line.socket.close()
        return None

    def _keep(self, line: _Line) -> None:
        line.idle_since = trio.current_time()
        self._idle.append(line)
        if len(self._idle) > MAX_IDLE:
            self._idle.pop(0).socket.close()

    async def _connect(self, host: str, port: int) -> _Line:
        seconds = self.upstream.patience.connect_s
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] | None = None
        with trio.move_on_after(seconds):
            try:
                stream = await trio.open_tcp_stream(host, port)
                return await self._secured(stream, host)
            except OSError as error:
                raise unreachable(self.upstream.url, error) from error
        raise ProviderFailure(Trouble.NETWORK, f"{host}:{port} does not answer within {seconds:g} s")

    async def _secured(self, stream: trio.SocketStream, host: str) -> _Line:
        """Speak TLS where that is asked for; the connection is closed where it fails."""
        if not self.upstream.secure:
            return _Line(stream)
        try:
            secure = trio.SSLStream(stream, self.upstream.tls, server_hostname=host, https_compatible=True)
            await secure.do_handshake()
        except trio.BrokenResourceError as error:
            stream.socket.close()
            raise unreachable(self.upstream.url, error) from error
        except BaseException:
            stream.socket.close()
            raise
        return _Line(secure)

    async def _send(self, line: _Line, request: h11.Request, body: bytes) -> None:
        """Send a request; where the provider does not take it all, what it answers tells why."""
        content = line.http.send(request) or b""
        if body:
            content += line.http.send(h11.Data(data=body)) or b""
        content += line.http.send(h11.EndOfMessage()) or b""
        with trio.move_on_after(self.upstream.patience.send_s) as scope:
            try:
                await line.stream.send_all(content)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
        if scope.cancelled_caught:
            raise ProviderFailure(Trouble.NETWORK, "the provider does not take the request")


async def _next_event(line: _Line, within_s: float) -> h11.Event:
    """Return the next part of an answer; raises `ProviderFailure` where it breaks off, or is none."""
    with trio.move_on_after(within_s):
        try:
            while True:
                event = line.http.next_event()
                if isinstance(event, h11.InformationalResponse):
                    continue
                if isinstance(event, h11.Event):
                    return event
                if event is h11.PAUSED:
                    raise ProviderFailure(Trouble.SERVER_ERROR, "the provider speaks another protocol")
                line.http.receive_data(bytes(await line.stream.receive_some(CHUNK_BYTES)))
        except h11.RemoteProtocolError as error:
            kind = Trouble.NETWORK if "close" in str(error).lower() else Trouble.SERVER_ERROR
            raise ProviderFailure(kind, f"the answer cannot be read: {error!s:.200}") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            why = error.__cause__ or "the connection broke"
            raise ProviderFailure(Trouble.NETWORK, f"the answer was cut: {why!s:.200}") from error
    raise ProviderFailure(Trouble.NETWORK, f"the provider said nothing for {within_s:g} s")


def _readable(sock: trio.socket.SocketType) -> bool:
    """Say whether something came, or the end, while nobody asked."""
    watch = select.poll()
    watch.register(sock.fileno(), select.POLLIN)
    return bool(watch.poll(0))
