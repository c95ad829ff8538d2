"""The process that looks through objects, seen from the supervisor: it is given orders, one after another.

Orders and objects come to it as descriptors over a socket, so no value stands on a command line, in an
environment or on a disk. The invariant: a worker that gave anything but a whole answer is killed at once and
never asked again; a kill of whoever waits for it does the same. Caller: `scan`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import trio

from sandbox.base import MIB, SandboxLaunchFailed
from sandbox.process import DEVNULL, Child, open_child

#: Bytes that a worker may address: what it holds of a text, its expressions, and what it unpacks.
MEMORY_BYTES = 4096 * MIB
#: Orders after which a worker is replaced, whatever it is like.
MAX_ORDERS = 500
#: Seconds that one which gave no answer has to end by itself, which tells what it died of.
END_S = 5.0
_MAX_ANSWER = 16 * MIB
#: What ends a worker only where somebody sends it: its own bounds end it in other ways.
_SENT = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}
_BOUNDS = (
    *("setpriv", "--pdeathsig", "KILL", "--no-new-privs", "--"),
    *("prlimit", f"--as={MEMORY_BYTES}", "--core=0", "--nofile=64", "--"),
)
_BOOT = "import sys; sys.path[:0] = sys.argv[1:]; from orchestrator.secrets.inside import serve; serve()"


class Worker:
    """A running process; made by `open_worker`."""

    def __init__(self, child: Child, ours: socket.socket) -> None:
        self._child = child
        self._socket = ours
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._orders = 0
        #: Whether it waits for an order.
        self.idle = True

    @property
    def fresh(self) -> bool:
        """Whether it has been told nothing yet."""
        return self._orders == 0

    async def ask(self, order: bytes, objects: int | None) -> bytes | None:
        """Let it look through the objects behind a descriptor, if any, and return its answer.

        That is nothing where it died of them, and None where somebody ended it: then another may answer.
        """
        self.idle = False
        self._orders += 1
        answer, ended = b"", None
        try:
            answer = await self._answer(order, objects)
            if not answer:  # a kill of ours would be taken for somebody else's
                with trio.move_on_after(END_S):
                    ended = await self._child.wait()
        finally:
            self.idle = bool(answer) and self._orders < MAX_ORDERS
            if not self.idle:
                self._child.kill_nowait()
        return None if ended is not None and ended.signal in _SENT else answer

    async def _answer(self, order: bytes, objects: int | None) -> bytes:
        """Hand the order over, and return the answer; nothing where there is none, or too much of it."""
        try:
            file = _order_file(order)
            try:
                socket.send_fds(self._socket, [b"!"], [file, file if objects is None else objects])
            finally:
                os.close(file)
            size = int.from_bytes(await self._receive(8))
            return await self._receive(size) if 0 < size <= _MAX_ANSWER else b""
        except (OSError, trio.BrokenResourceError):
            return b""

    async def wait(self) -> None:
        """Wait for its end."""
        await self._child.wait()
        self.idle = False

    async def _receive(self, size: int) -> bytes:
        """Return so many bytes; nothing where there are no more."""
        received = bytearray()
        while len(received) < size:
            piece = await self._stream.receive_some(size - len(received))
            if not piece:
                return b""
            received += piece
        return bytes(received)


@asynccontextmanager
async def open_worker() -> AsyncGenerator[Worker, None]:
    """Start a process; leaving the block ends it. Raises `SandboxLaunchFailed`."""
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:  # no descriptor left: whoever keeps one ready must outlive that
        raise SandboxLaunchFailed(
            f"there is no socket for the process that looks for secrets: {error}"
        ) from error
    argv = (*_BOUNDS, sys.executable, "-I", "-S", "-c", _BOOT, *_import_paths())
    with ours, theirs:
        async with open_child(argv, env=_ENV, stdin=theirs.fileno(), stdout=DEVNULL, stderr=DEVNULL) as child:
            theirs.close()
            yield Worker(child, ours)


def _order_file(order: bytes) -> int:
    """Return a descriptor from which the order is read."""
    fd = os.memfd_create("order", os.MFD_CLOEXEC)
    os.write(fd, order)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _import_paths() -> tuple[str, ...]:
    """Return the directories from which its modules are imported: it looks into no others."""
    origins = [spec.origin for name in ("orchestrator", "re2", "ahocorasick_rs") if (spec := find_spec(name))]
    return tuple(dict.fromkeys(str(Path(origin).parent.parent) for origin in origins if origin))
