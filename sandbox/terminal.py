"""Our side of a pseudo-terminal: what is typed goes in, what is shown comes out, and the window has a size.

The invariant: nothing is read that nobody asked for, so that a program which floods its terminal is held up
by the kernel. Callers: `sandbox.pty` makes it, runtimes use it.
"""

from __future__ import annotations

import errno
import termios

import trio

#: Columns and rows.
Size = tuple[int, int]


class Terminal(trio.abc.Stream):
    """A stream of bytes, both ways; keys such as Ctrl-C are bytes, too."""

    def __init__(self, master: int, size: Size) -> None:
        """Take over the master's descriptor."""
        self._stream = trio.lowlevel.FdStream(master)
        self.resize_nowait(size)

    def resize_nowait(self, size: Size) -> None:
        """Set the window's size; its foreground processes get SIGWINCH. Nothing happens after its end."""
        if (fd := self._stream.fileno()) >= 0:
            columns, rows = size
            termios.tcsetwinsize(fd, (rows, columns))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Type; waits while a program inside reads nothing of what was typed before."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until something may be typed."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what is shown next; empty once no process holds the terminal any more."""
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO:
                return b""
            raise

    async def aclose(self) -> None:
        """Hang up."""
        await self._stream.aclose()

    def close_nowait(self) -> None:
        """Hang up; the terminal's foreground processes get SIGHUP."""
        self._stream.close()
