"""The socket over which a sandbox is launched: words from inside, our answers, and who spoke.

The invariant: each word comes with its speaker's pid, by the kernel's word, and our silence holds the launch
up. Callers: `sandbox.bubblewrap` and `sandbox.podman` make it, `sandbox.confined` speaks by it.
"""

from __future__ import annotations

import contextlib
import socket
import struct

import trio

_CREDENTIALS = struct.Struct("3i")


class ChannelClosed(Exception):
    """Nobody holds the other end of the launch channel any more."""


class Channel:
    """Our end of the socket over which a launch speaks: each word comes with its speaker's pid."""

    def __init__(self, near: socket.socket) -> None:
        near.setblocking(False)
        self._near = near
        self._socket = trio.socket.from_stdlib_socket(near)

    async def hear(self) -> tuple[str, int]:
        """Return the next word and the pid of its speaker, by the kernel's word; or raise `ChannelClosed`."""
        try:
            text, ancillary, _, _ = await self._socket.recvmsg(64, socket.CMSG_SPACE(_CREDENTIALS.size))
        except OSError as error:
            raise ChannelClosed from error
        if not text:
            raise ChannelClosed
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                return text.decode().strip(), int(_CREDENTIALS.unpack(value)[0])
        raise ChannelClosed

    async def answer(self) -> None:
        """Let who waits for us go on."""
        try:
            await self._socket.send(b"go\n")
        except OSError as error:
            raise ChannelClosed from error

    def refuse_nowait(self) -> None:
        """Let the init give up, if it still waits for an answer."""
        with contextlib.suppress(OSError):
            self._near.shutdown(socket.SHUT_WR)

    async def wait_closed(self) -> None:
        """Wait until nobody holds the other end: everything before the answer is dead."""
        with contextlib.suppress(ChannelClosed):
            while True:
                await self.hear()

    def close_nowait(self) -> None:
        """Close our end."""
        self._socket.close()


def channel_ends() -> tuple[socket.socket, socket.socket]:
    """Return our end of a new launch channel and the launch's, each the caller's to close."""
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return near, far
