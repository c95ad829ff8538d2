"""The listeners and the server: from sockets to the application, and down again in bounded time.

The invariant: `run_server` returns within `grace_s` of the shutdown, whatever its clients do: streams are
told to end (1001, end of stream), idle connections are closed, the rest is cancelled. The unix socket is
0600 before anybody can connect, and one that a live server answers on is never removed. Called by the
assembly.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import socket
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import trio
from quart_trio import QuartTrio

from orchestrator.api.connection import Connection, make_config, make_context, wrap
from orchestrator.api.stream import Streams
from orchestrator.errors import SettingsError

BACKLOG = 512
#: Milliseconds that the kernel waits for a TCP peer to take data, before it gives the connection up.
TCP_USER_TIMEOUT_MS = 30_000
#: Seconds of silence after which a TCP peer is asked whether it is still there, and between two such
#: questions: a machine that went without a word would keep its place on a coordinator's bench to the end.
KEEPALIVE_IDLE_S, KEEPALIVE_EACH_S = 30, 10
#: What one address may hold of all connections over TCP; the unix socket always stays open for a kill.
SHARE = 0.8
MAX_CONNECTIONS = 10_000

log = logging.getLogger("orchestrator.api")


def open_listeners(host: str, port: int, socket_path: Path | None) -> list[socket.socket]:
    """Open the loopback TCP listener and the unix socket; port 0 takes a free one."""
    listeners: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for family, address in _addresses(host, port):
            listener = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EACH_S)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                listener.bind(address)
            except OSError as error:
                raise SettingsError(
                    f"cannot listen on {host}:{port}: {error.strerror}"
                    " (set ORCHESTRATOR_PORT to another port, or end what holds this one)"
                ) from error
            listener.listen(BACKLOG)
            listeners.append(listener)
        if socket_path is not None:
            listeners.append(undo.enter_context(_open_unix(socket_path)))
        undo.pop_all()
    return listeners


async def run_server(
    app: QuartTrio, listeners: Sequence[socket.socket], *, shutdown: trio.Event, grace_s: float
) -> None:
    """Serve on the listeners, which this closes, until the shutdown; return when all is closed."""
    streams: Streams = app.extensions["orchestrator.streams"]
    server = _Server(app)
    trio_listeners = [_trio_listener(listener) for listener in listeners]
    async with trio.open_nursery() as connections:
        accepting = trio.CancelScope()
        connections.start_soon(server.accept, trio_listeners, connections, accepting)
        await shutdown.wait()
        accepting.cancel()
        streams.end()
        await server.context.terminated.set()
        with trio.move_on_after(grace_s):
            await server.wait_idle()
        connections.cancel_scope.cancel()


class _Server:
    """The connections that are open now, and their ceilings."""

    def __init__(self, app: QuartTrio) -> None:
        self._app = wrap(app)
        self._config = make_config()
        self.context = make_context()
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._ceiling = min(MAX_CONNECTIONS, soft // 2)
        self._open: Counter[str] = Counter()
        self._idle = trio.Event()
        self._accepting = True

    async def accept(
        self, listeners: list[trio.SocketListener], connections: trio.Nursery, scope: trio.CancelScope
    ) -> None:
        """Accept until cancelled, then close the listeners."""
        try:
            with scope:
                await trio.serve_listeners(self._serve, listeners, handler_nursery=connections)
        finally:
            for listener in listeners:
                listener.socket.close()
            self._accepting = False
            self._note_idle()

    async def wait_idle(self) -> None:
        """Wait until no connection is left."""
        await self._idle.wait()

    async def _serve(self, stream: trio.SocketStream) -> None:
        address = _address(stream)
        tcp = self._open.total() - self._open[""]
        if address and (tcp >= self._ceiling or self._open[address] >= self._ceiling * SHARE):
            stream.socket.close()
            return
        self._open[address] += 1
        try:
            await Connection(self._app, self._config, self.context, stream).run()
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]
            self._note_idle()

    def _note_idle(self) -> None:
        if not self._accepting and not self._open:
            self._idle.set()


def _address(stream: trio.SocketStream) -> str:
    """Return the peer's address, empty on the unix socket."""
    if stream.socket.family == socket.AF_UNIX:
        return ""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return "gone"


def _trio_listener(listener: socket.socket) -> trio.SocketListener:
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


def _addresses(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    """Return where to listen: every address of `localhost`, unless the port is to be found."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise SettingsError(f"the host {host} has no address: {error.strerror}") from error
    unique = dict.fromkeys((int(family), (str(address[0]), port)) for family, _, _, _, address in found)
    return list(unique)[: 1 if port == 0 else None]


def _open_unix(path: Path) -> socket.socket:
    """Bind the unix socket; a stale one of a dead server is replaced, anything else is left alone."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Nobody may connect between bind and chmod.
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(f"cannot listen on {path}: {error.strerror}") from error
    return listener


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SettingsError(f"{path} is there and is no socket; move it away")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno in {errno.ECONNREFUSED, errno.ENOENT}:
                path.unlink(missing_ok=True)
                return
            raise SettingsError(f"cannot tell whether {path} is in use: {error.strerror}") from error
    raise SettingsError(f"another orchestrator listens on {path}")
