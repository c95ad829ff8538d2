"""A quality coordinator that follows a script, on a port of its own: sound, rejecting, or misbehaving.

It speaks HTTP over raw sockets in a thread of its own, so that it can also speak what is no HTTP, and keeps
what it was asked. A manner is what one connection is answered with; the last of a script goes on for ever.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

Manner = Callable[[socket.socket], None]


def answer(body: bytes | dict[str, Any], status: str = "200 OK", *headers: str) -> Manner:
    """Return the manner of answering with this."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers]

    def speak(connection: socket.socket) -> None:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)

    return speak


APPROVES = answer({"approved": True, "gate": "quality", "message": "fine", "details": {}, "confidence": 0.93})
REJECTS = answer(
    {
        "approved": False,
        "gate": "coverage",
        "message": "only 12 % of the lines are covered",
        "details": {"missing": ["a.py", "b.py"], "output": "line 1\nline 2"},
        "confidence": 1.0,
    }
)


def hangs_up(connection: socket.socket) -> None:
    """Close the connection without a word."""


def leaves_half_way(connection: socket.socket) -> None:
    """Send less of a body than the head says, and close."""
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"approved": true')


def garbage(connection: socket.socket) -> None:
    """Send what is no HTTP."""
    connection.sendall(bytes(range(256)) * 64)


def mute(connection: socket.socket) -> None:
    """Say nothing until the other side leaves."""
    while connection.recv(65536):
        continue


def drips(connection: socket.socket) -> None:
    """Send the head, then a byte now and then, for ever."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    connection.settimeout(0.05)
    while True:
        with suppress(TimeoutError):
            if not connection.recv(1):
                return
        connection.sendall(b" ")


def endless_head(connection: socket.socket) -> None:
    """Send one header after the other, for ever."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-More: and more\r\n" * 100)


def interim_for_ever(connection: socket.socket) -> None:
    """Never come to the answer itself."""
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


@dataclass
class Coordinator:
    """What runs, and what it was asked."""

    port: int
    script: list[Manner]
    #: The bodies of the questions, and the heads of all requests.
    asked: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    #: What comes before the script, by the task that is asked about.
    by_task: dict[str, Manner] = field(default_factory=dict)
    #: What is answered first when its health is asked for.
    healths: list[Manner] = field(default_factory=list)
    health: dict[str, Any] = field(default_factory=lambda: {"status": "healthy"})

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def serve_one(self, connection: socket.socket) -> None:
        """Read a request, keep it, and answer as the script says."""
        raw = b""
        while b"\r\n\r\n" not in raw:
            piece = connection.recv(65536)
            if not piece:
                return
            raw += piece
        head, _, body = raw.partition(b"\r\n\r\n")
        self.heads.append(head.decode())
        if not head.startswith(b"POST"):
            (self.healths.pop(0) if self.healths else answer(self.health))(connection)
            return
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        while len(body) < length:
            body += connection.recv(65536)
        self.asked.append(json.loads(body))
        manner = self.by_task.get(self.asked[-1].get("taskId", ""))
        if manner is None:
            manner = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        manner(connection)


@contextmanager
def running(*script: Manner) -> Iterator[Coordinator]:
    """Run a coordinator with this script until the block is left."""
    listener = socket.create_server(("127.0.0.1", 0))
    coordinator = Coordinator(listener.getsockname()[1], list(script))
    opened: list[socket.socket] = []
    children: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            coordinator.serve_one(connection)
            connection.shutdown(socket.SHUT_WR)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            opened.append(connection)
            children.append(threading.Thread(target=serve, args=(connection,)))
            children[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield coordinator
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for connection in opened:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for child in children:
            child.join()
