"""Carry lines into and out of a sandbox without ever blocking, and make heavy messages light.

Given to `python3 -I -S -c` beside `inside`. The invariant: of what comes, one line of a bounded length is
held, and no descriptor is waited for. Stands on the standard library of any Python 3.8.
"""

from __future__ import annotations

import json
import os

CHUNK_BYTES = 65536
#: A line of the agent's that is longer is thrown away.
MAX_LINE_BYTES = 32 * 1024 * 1024
#: A message that is longer is made shorter before it goes out.
LIGHT_BYTES = 256 * 1024
MAX_TEXT, MAX_ITEMS, MAX_DEPTH = 32_000, 200, 12


class Pipe:
    """One way for bytes that never blocks: a descriptor, and what it did not take yet."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.waiting = bytearray()

    def send(self, message: object) -> None:
        """Write one message."""
        self.send_line(json.dumps(message).encode())

    def send_line(self, line: bytes) -> None:
        """Write a message that is a line already."""
        if self.fd >= 0:
            self.waiting += line + b"\n"
            self.flush()

    def close(self) -> None:
        """Write no more; the descriptor is the caller's to close."""
        self.fd = -1
        self.waiting.clear()

    def flush(self) -> None:
        """Write what the descriptor takes; what a closed one does not take is lost."""
        try:
            while self.waiting:
                del self.waiting[: os.write(self.fd, memoryview(self.waiting)[:CHUNK_BYTES].tobytes())]
        except BlockingIOError:
            pass
        except OSError:
            self.waiting.clear()


class Lines:
    """Cuts what comes into lines; of one that is too long, nothing is kept."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._seen = 0
        self._skipping = False
        self.dropped = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that end in this chunk."""
        self._buffer += chunk
        lines = []
        while (end := self._buffer.find(b"\n", self._seen)) >= 0:
            if self._skipping:
                self._skipping = False
            else:
                lines.append(bytes(self._buffer[:end]))
            del self._buffer[: end + 1]
            self._seen = 0
        self._seen = len(self._buffer)
        if self._skipping or self._seen > MAX_LINE_BYTES:
            self.dropped += not self._skipping
            self._skipping = True
            self._buffer.clear()
            self._seen = 0
        return lines


def lightened(value: object, depth: int = 0) -> object:
    """Return a message with its long texts and lists cut, which are for people to read."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + " [cut]"
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, list):
        return [lightened(one, depth + 1) for one in value[:MAX_ITEMS]]
    if isinstance(value, dict):
        pairs = list(value.items())[:MAX_ITEMS]
        return {name[:MAX_TEXT]: lightened(one, depth + 1) for name, one in pairs}
    return value
