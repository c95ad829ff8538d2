"""Whether a mirror is whole: by a look at its files, by a walk of git's, by every byte.

A crash of the host, a bad disk or a hand that slipped can tear what git wrote; git then says something about
an object, to whoever asks first, and that is mostly an agent. The invariant: a flaw is told only where
something is seen to be wrong with the mirror itself; what could not be looked at (no descriptor free, a busy
disk, a walk that takes too long) is no flaw. Caller: `renewal`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import trio

from orchestrator.errors import GitTimeout
from orchestrator.repo.git import Git, complaint

#: How long the walk, and the reading of every byte, may take: less than a salvage, which they are a part of.
WALK_S = 20.0
READ_S = 20.0
_CHUNK = 2**20
_IDX_MAGIC = b"\xfftOc\0\0\0\2"
_PACK_MAGIC = b"PACK\0\0\0\2"
_FANOUT_END = 8 + 255 * 4
_HASH = 20
_REF = re.compile(rb"[0-9a-f]{40}\n")
_LOOSE = re.compile(r"[0-9a-f]{38}")
#: What git says of objects that are gone or torn; never of a file that it could not open for the moment.
_TORN = re.compile(
    r"missing|bad (object|tree|revision)|unable to read|could not (read|parse)|corrupt|is empty|garbage|"
    r"invalid|inflate|non-monotonic|too small|truncated|unavailable|did not match|not a (valid|tree)",
    re.IGNORECASE,
)
_PASSING = re.compile(r"too many open files|cannot allocate|out of memory|mmap failed", re.IGNORECASE)

#: A pack that was seen to be whole: its name, size, and time of writing.
Seen = tuple[str, int, int]


def look(mirror: Path, seen: set[Seen]) -> str | None:
    """Return what the ends of the packs and the refs show to be wrong; quick, and quicker of what was `seen`.

    `seen` is what earlier looks found whole: nothing of that may be gone, for nothing of ours removes a pack.
    """
    try:
        with os.scandir(mirror / "objects" / "pack") as listing:
            found = {entry.name: entry.stat() for entry in listing}
    except FileNotFoundError:  # it was made before HEAD was
        return "its objects are gone" if (mirror / "HEAD").exists() else None
    except OSError:  # it cannot be looked at
        return None
    for name in {name for name, _, _ in seen} - found.keys():
        return f"{name} is gone"
    for name in found:
        if not name.endswith(".idx"):
            continue
        pack = f"{name.removesuffix('.idx')}.pack"
        if pack not in found:
            return f"{pack} is gone"
        pair = {(each, found[each].st_size, found[each].st_mtime_ns) for each in (name, pack)}
        if pair <= seen:
            continue
        try:
            if why := _seam(mirror / "objects" / "pack", name, pack):
                return why
        except OSError:
            continue
        seen |= pair
    return _torn_ref(mirror)


def _seam(packs: Path, idx: str, pack: str) -> str | None:
    """Return what does not fit between an index and its pack."""
    with (packs / idx).open("rb") as file:
        head = file.read(_FANOUT_END + 4)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * _HASH))
        named = file.read(_HASH)
    count = int.from_bytes(head[_FANOUT_END:], "big")
    if not head.startswith(_IDX_MAGIC) or size < _FANOUT_END + 4 + count * 28 + 2 * _HASH:
        return f"{idx} is torn"
    with (packs / pack).open("rb") as file:
        head = file.read(12)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _HASH))
        end = file.read(_HASH)
    whole = head.startswith(_PACK_MAGIC) and int.from_bytes(head[8:], "big") == count and end == named
    return None if whole else f"{pack} is torn"


def _torn_ref(mirror: Path) -> str | None:
    try:
        for path in (mirror / "refs" / "base").iterdir():
            if path.suffix != ".lock" and not _REF.fullmatch(path.read_bytes()):
                return f"the ref {path.name[:12]} is torn"
    except OSError:
        return None
    return None


async def walk(git: Git, commit: str, *, history: bool) -> str | None:
    """Return what git misses of the commit's files and, with `history`, of what they come from."""
    depth = () if history else ("--no-walk",)
    try:
        done = await git.attempt(
            "rev-list", "--objects", "--quiet", *depth, commit, "--", deadline_s=WALK_S, max_bytes=_CHUNK
        )
    except GitTimeout:
        return None
    said = complaint(done.stderr)
    if done.exit.ok or done.exit.signal is not None or _PASSING.search(said) or not _TORN.search(said):
        return None
    return said[:300]


async def read_all(mirror: Path) -> str | None:
    """Return the first file whose content is not what its checksum says; every byte is read, in a thread."""
    with trio.move_on_after(READ_S):
        return await trio.to_thread.run_sync(_read_all, mirror / "objects")
    return None


def _read_all(objects: Path) -> str | None:
    for path, whole in _checks(objects):
        trio.from_thread.check_cancelled()
        try:
            with path.open("rb") as file:
                if not whole(file, path):
                    return f"{path.relative_to(objects)} is torn"
        except OSError:
            continue
    return None


def _checks(objects: Path) -> Iterator[tuple[Path, Callable[[BinaryIO, Path], bool]]]:
    for path in sorted((objects / "pack").glob("pack-*")):
        if path.suffix in {".idx", ".pack", ".rev"}:
            yield path, _ends_with_checksum
    for path in sorted(objects.glob("[0-9a-f][0-9a-f]/*")):
        if _LOOSE.fullmatch(path.name):
            yield path, _is_named_by_content


def _ends_with_checksum(file: BinaryIO, _path: Path) -> bool:
    left = file.seek(0, os.SEEK_END) - _HASH
    file.seek(0)
    found = hashlib.sha1(usedforsecurity=False)
    while left > 0 and (chunk := file.read(min(left, _CHUNK))):
        trio.from_thread.check_cancelled()
        found.update(chunk)
        left -= len(chunk)
    return left == 0 and file.read() == found.digest()


def _is_named_by_content(file: BinaryIO, path: Path) -> bool:
    found, inflate = hashlib.sha1(usedforsecurity=False), zlib.decompressobj()
    try:
        while chunk := file.read(_CHUNK):
            while chunk:
                trio.from_thread.check_cancelled()
                found.update(inflate.decompress(chunk, _CHUNK))
                chunk = inflate.unconsumed_tail
    except zlib.error:
        return False
    return inflate.eof and found.hexdigest() == path.parent.name + path.name


def got_anything(mirror: Path) -> bool:
    """Return whether a mirror keeps any commit: a branch's, or what was salvaged."""
    for kind in ("base", "salvage"):
        gone = contextlib.suppress(FileNotFoundError, NotADirectoryError)
        with gone, os.scandir(mirror / "refs" / kind) as names:
            if any(not entry.name.endswith(".lock") for entry in names):
                return True
    return False
