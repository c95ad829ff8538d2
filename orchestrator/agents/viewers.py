"""Who looks at an agent's terminal: each gets what is shown as it comes, or later the screen as it is then.

The invariant: a viewer costs the agent nothing. What it has not taken is kept up to `MAX_BEHIND` bytes;
beyond that it is thrown away, and what the viewer gets next is a picture of the screen. Callers:
`agents.live_terminal`, which shows, and `api.terminal`, which sends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

#: Bytes that may wait for a slow viewer.
MAX_BEHIND = 256 * 1024
#: Viewers of one terminal.
MAX_VIEWERS = 32


class Viewer:
    """One who looks on."""

    def __init__(self, paint: Callable[[], Awaitable[bytes]], *, first: bytes | None) -> None:
        self._paint = paint
        self._waiting = bytearray(first or b"")
        #: Whether the next piece is a picture of the whole screen.
        self._lost = first is None
        self._over = False
        self._moved = trio.Event()
        #: How often it fell behind.
        self.skips = 0

    def show_nowait(self, data: bytes) -> None:
        """Take what the terminal shows now."""
        if not self._lost:
            self._waiting += data
            if len(self._waiting) > MAX_BEHIND:
                self._waiting.clear()
                self._lost = True
                self.skips += 1
        self._moved.set()

    def repaint_nowait(self) -> None:
        """Get the whole screen next: it has another size."""
        self._waiting.clear()
        self._lost = True
        self._moved.set()

    def end_nowait(self) -> None:
        """Get no more than what waits."""
        self._over = True
        self._moved.set()

    async def next_piece(self) -> bytes:
        """Return what is to be shown next, nothing once the terminal is gone."""
        while not (self._lost or self._waiting):
            if self._over:
                return b""
            self._moved = trio.Event()
            await self._moved.wait()
        if self._lost:
            # The picture is made after what it shows was drawn, and before anything later is told.
            picture = await self._paint()
            self._lost = False
            self._waiting.clear()
            return picture
        piece = bytes(self._waiting)
        self._waiting.clear()
        return piece
