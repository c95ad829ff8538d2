"""What a provider that refuses may say: the SDK reads an error's body to its end, and some have none.

The invariant: of a body of whatever length no more than `MAX_ERROR_BYTES` are read. Imported with the SDK, in
its thread. Caller: `upstream`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio
from httpx2 import AsyncByteStream, Response

MAX_ERROR_BYTES = 64 * 1024


class _Beginning(AsyncByteStream):
    """The first bytes of a stream; the rest is left unread, with its connection."""

    def __init__(self, whole: AsyncByteStream) -> None:
        self._whole = whole

    async def _read(self) -> AsyncIterator[bytes]:
        found = bytearray()
        # By a cancellation alone its generators let go of the connection; leaving the loop would not do.
        with trio.CancelScope() as reading:
            async for chunk in self._whole:
                found += chunk
                if len(found) >= MAX_ERROR_BYTES:
                    reading.cancel()
        yield bytes(found[:MAX_ERROR_BYTES])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._read()

    async def aclose(self) -> None:
        """Close it."""
        await self._whole.aclose()


async def cut_short(response: Response) -> None:
    """Leave of an answer that is no success what is read of it."""
    if not response.is_success and isinstance(response.stream, AsyncByteStream):
        response.stream = _Beginning(response.stream)
