"""Read many objects of a repository of ours through one process, each within a bound.

The invariant: an object that is larger than its reader allows is never held in memory. Callers: `policy`
(trees and links of a candidate) and `quarantine` (files of the base).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from orchestrator.errors import GitFailed
from orchestrator.repo.git import Git
from sandbox.process import Child


class ObjectTooLarge(Exception):
    """An object is larger than its reader allows; the reader is of no use any more."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a tree."""

    mode: int
    oid: str

    @property
    def is_tree(self) -> bool:
        """Whether it is a directory."""
        return self.mode == 0o40000


def parse_tree(content: bytes) -> dict[bytes, Entry]:
    """Return the entries of a tree object by name."""
    entries = {}
    position = 0
    while position < len(content):
        space = content.index(b" ", position)
        end = content.index(b"\0", space)
        oid = content[end + 1 : end + 21].hex()
        entries[content[space + 1 : end]] = Entry(int(content[position:space], 8), oid)
        position = end + 21
    return entries


class ObjectReader:
    """Answers one request at a time; made by `open_reader`."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._buffer = bytearray()

    async def read(self, name: str, *, max_bytes: int) -> tuple[str, bytes] | None:
        """Return the type and content of an object, or None where there is none.

        Raises `ObjectTooLarge` where it has more than `max_bytes`.
        """
        if "\n" in name:
            return None
        try:
            await self._child.stdin.send_all(name.encode(errors="surrogateescape") + b"\n")
        except trio.BrokenResourceError as error:
            raise GitFailed("git cat-file ended too early") from error
        header = (await self._until_newline()).rsplit(b" ", 2)
        if len(header) < 3 or not header[2].isdigit():
            return None  # `missing`, `ambiguous` and the like
        size = int(header[2])
        if size > max_bytes:
            raise ObjectTooLarge(f"{name} has {size} bytes, more than {max_bytes}")
        while len(self._buffer) <= size:
            await self._fill()
        content = bytes(self._buffer[:size])
        del self._buffer[: size + 1]
        return header[1].decode(), content

    async def read_tree(self, oid: str, *, max_bytes: int) -> dict[bytes, Entry]:
        """Return the entries of a tree; raises `GitFailed` where it is none, or `ObjectTooLarge`."""
        found = await self.read(oid, max_bytes=max_bytes)
        if found is None or found[0] != "tree":
            raise GitFailed(f"{oid} is not a tree")
        return parse_tree(found[1])

    async def _until_newline(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            await self._fill()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def _fill(self) -> None:
        chunk = await self._child.stdout.receive_some()
        if not chunk:
            raise GitFailed("git cat-file ended too early")
        self._buffer += chunk


@asynccontextmanager
async def open_reader(git: Git) -> AsyncGenerator[ObjectReader, None]:
    """Start a reader; it lives as long as the block."""
    async with git.open("cat-file", "--batch") as child:
        yield ObjectReader(child)
        await child.stdin.aclose()
        await child.wait()
        child.release_nowait()
