"""The ends of a short command's pipes: what goes in, what is kept of what comes out, and none at all.

The invariant: a command is never held up by a full pipe, however much it writes. Caller: `sandbox.process`.
"""

from __future__ import annotations

import contextlib

import trio

_CHUNK_BYTES = 65536


class Closed(trio.abc.Stream):
    """In place of a stream that is not ours."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Refuse."""
        raise trio.ClosedResourceError("this is not a pipe of ours")

    async def wait_send_all_might_not_block(self) -> None:
        """Refuse."""
        raise trio.ClosedResourceError("this is not a pipe of ours")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Refuse."""
        raise trio.ClosedResourceError("this is not a pipe of ours")

    async def aclose(self) -> None:
        """Do nothing."""
        await trio.lowlevel.checkpoint()


async def feed(stream: trio.abc.SendStream, content: bytes) -> None:
    """Write all and close; a command that does not read to the end is no error."""
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):
            if content:
                await stream.send_all(content)


class Capture:
    """Reads a stream to its end and keeps the first bytes of it."""

    def __init__(self, limit_bytes: int) -> None:
        self.kept = bytearray()
        self.truncated = False
        self._limit = limit_bytes

    async def drain(self, stream: trio.abc.ReceiveStream) -> None:
        """Read to the end; what goes beyond the limit is thrown away, so that the writer never blocks."""
        while chunk := await stream.receive_some(_CHUNK_BYTES):
            room = self._limit - len(self.kept)
            self.truncated = self.truncated or len(chunk) > room
            self.kept += chunk[:room]
