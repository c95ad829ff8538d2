"""JSON by the line, as a program in a sandbox writes it: cut out of a stream, and looked at with care. Pure.

The invariant: whatever comes, a line becomes one `Said`, one `Noise` or nothing, in a bounded time and with
bounded memory; nothing that a program writes is an error of ours. Caller: `claude_events`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Bytes of one line; what a longer one says is thrown away as it comes.
MAX_LINE_BYTES = 16 * 1024 * 1024
#: What takes time and memory to parse, by the byte: structure outside of strings, and strings.
MAX_STRUCTURE_BYTES = 512 * 1024
MAX_STRINGS = 100_000
#: Lines below this size are parsed without being looked at first.
_SMALL_BYTES = 64 * 1024
#: Characters that are kept of a line that says nothing.
MAX_SHOWN = 1000


@dataclass(frozen=True, slots=True)
class Said:
    """A line that is an object with a type, known or not."""

    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Noise:
    """A line that is none: how it begins, at most `MAX_SHOWN` characters, and why it says nothing."""

    text: str
    why: str


class LineParser:
    """Cuts and parses; bytes may come in pieces of any size."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._pending = bytearray()
        #: Bytes of the present line, where it is too long to be kept.
        self._lost = 0

    def feed(self, chunk: bytes) -> list[Said | Noise]:
        """Return what the lines say that end in this chunk."""
        *ended, rest = chunk.split(b"\n")
        found: list[Said | Noise] = []
        for part in ended:
            self._extend(part)
            found += self._end()
        self._extend(rest)
        return found

    def finish(self) -> list[Said | Noise]:
        """Return what the line says that was left without its end, if there is one."""
        return self._end()

    def _extend(self, part: bytes) -> None:
        if self._lost:
            self._lost += len(part)
        elif len(self._pending) + len(part) > self._max:
            self._lost = len(self._pending) + len(part)
            self._pending += part[:MAX_SHOWN]
            del self._pending[MAX_SHOWN:]
        else:
            self._pending += part

    def _end(self) -> list[Said | Noise]:
        line, lost = bytes(self._pending), self._lost
        self._pending, self._lost = bytearray(), 0
        if lost:
            return [Noise(_shown(line), f"a line of {lost} bytes")]
        return [parse_line(line)] if line.strip() else []


def parse_line(line: bytes) -> Said | Noise:
    """Return what a line says."""
    if len(line) > _SMALL_BYTES and _is_intricate(line):
        return Noise(_shown(line), f"a line of {len(line)} bytes with too many parts")
    try:
        data = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return Noise(_shown(line), "no JSON")
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        return Noise(_shown(line), "no message")
    return Said(data["type"], data)


def _is_intricate(line: bytes) -> bool:
    """Say whether a line takes long to parse; this itself is quick."""
    plain = line.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') // 2 > MAX_STRINGS:
        return True
    return sum(map(len, plain.split(b'"')[::2])) > MAX_STRUCTURE_BYTES


def _shown(line: bytes) -> str:
    return line[: 4 * MAX_SHOWN].decode("utf-8", "replace")[:MAX_SHOWN].strip()
