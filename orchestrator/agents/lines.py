"""A program's output, cut into the lines of a log.

The invariant: however a program writes, a line is at most `MAX_LINE_BYTES`, a turn's log at most
`MAX_LOG_BYTES` and `MAX_LOG_LINES`, and what is beyond is marked once and thrown away, so that the program
is never blocked and memory stays flat. Caller: the runtimes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.agents.base import Output

MAX_LINE_BYTES = 64 * 1024
MAX_LOG_BYTES = 64 * 1024 * 1024
MAX_LOG_LINES = 250_000

CUT = " [the rest of this line was cut]"


class LineCutter:
    """Cuts a stream of bytes at line ends; of a line that is drawn over and over, the last state counts."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._pending = b""
        #: Whether the present line was cut, and what follows belongs to nobody.
        self._skipping = False

    def feed(self, chunk: bytes) -> list[str]:
        """Return the lines that end in this chunk."""
        *ended, rest = chunk.split(b"\n")
        lines: list[str] = []
        for part in ended:
            self._extend(part, lines)
            self._end(lines)
        self._extend(rest, lines)
        return lines

    def finish(self) -> list[str]:
        """Return the line that the program left unfinished, if any."""
        lines: list[str] = []
        if self._pending:
            self._end(lines)
        return lines

    def _extend(self, part: bytes, lines: list[str]) -> None:
        if self._skipping:
            return
        self._pending += part
        # A carriage return begins the line anew; those at the end may be part of a line end.
        written = self._pending.rstrip(b"\r")
        start = written.rfind(b"\r") + 1
        if start or len(written) < len(self._pending) - 1:
            ended = b"\r" if len(written) < len(self._pending) else b""
            self._pending = written[start:] + ended
        if len(self._pending) > self._max:
            lines.append(_decode(self._pending[: self._max]) + CUT)
            self._pending, self._skipping = b"", True

    def _end(self, lines: list[str]) -> None:
        if not self._skipping:
            lines.append(_decode(self._pending.removesuffix(b"\r")))
        self._pending, self._skipping = b"", False


def _decode(line: bytes) -> str:
    """Decode what may be no text; no line holds a NUL, at which SQLite's own tools stop reading."""
    return line.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def as_written(line: str) -> Sequence[str]:
    """Return the line as it is."""
    return (line,)


class TurnLog:
    """What one turn may write into the agent's log, both streams together."""

    def __init__(
        self,
        output: Output,
        *,
        max_bytes: int = MAX_LOG_BYTES,
        max_lines: int = MAX_LOG_LINES,
        shown: Callable[[str], Sequence[str]] = as_written,
    ) -> None:
        self._output = output
        self._shown = shown
        self._bytes_left = max_bytes
        self._lines_left = max_lines
        self._cutters = {"stdout": LineCutter(), "stderr": LineCutter()}

    async def add(self, stream: str, chunk: bytes) -> None:
        """Log the lines that end in this chunk."""
        if self._bytes_left <= 0:
            return
        # A chunk's lines are bounded by its bytes, so the overshoot is one chunk.
        self._bytes_left -= len(chunk)
        await self._write(stream, self._cutters[stream].feed(chunk))
        if self._bytes_left <= 0:
            await self._mark()

    async def tell(self, line: str) -> None:
        """Log one line of ours about what the program does, after what it wrote until now."""
        if self._bytes_left <= 0:
            return
        await self.finish()
        self._bytes_left -= len(line)
        await self._write("system", [line])
        if self._bytes_left <= 0:
            await self._mark()

    async def finish(self) -> None:
        """Log what stands unfinished at the end."""
        if self._bytes_left > 0:
            for stream, cutter in self._cutters.items():
                await self._write(stream, cutter.finish())

    async def _write(self, stream: str, raw: list[str]) -> None:
        lines = [shown for line in raw[: self._lines_left] for shown in self._shown(line)]
        for line in lines[: self._lines_left]:
            await self._output(stream, line)
        self._lines_left -= min(len(lines), self._lines_left)
        if self._lines_left == 0 and self._bytes_left > 0:
            self._bytes_left = 0

    async def _mark(self) -> None:
        await self._output("system", "the output of this turn is too long for the log: the rest is left out")
