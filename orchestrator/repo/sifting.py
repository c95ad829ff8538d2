"""What a set-up made, sifted: only names that the repository has not, only files, links and directories.

Whoever stands on the result has the repository's own files beside it, so nothing here may take their place;
and what wrote it is as hostile as any agent. The invariant: every step is relative to a descriptor opened
without following links, in a thread, within bounds; nothing is read but names, kinds and sizes. Caller:
`setups`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import trio

from orchestrator.core.ceilings import FILES_PER_MB, MIN_FILES
from orchestrator.core.setup import SetupFailed
from orchestrator.repo.removal import open_anyway, remove_at, remove_below

#: Names among the repository's own that a set-up may add: each is looked at for every agent.
MAX_ROOTS = 1000
#: Directories inside one another; each level holds two descriptors.
MAX_DEPTH = 64
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Sifted:
    """What is left: the names that it adds (a directory's ends with a slash), its size on the disk."""

    roots: tuple[str, ...]
    bytes: int
    names: int


def most_names(disk_mb: float) -> int:
    """Return how many names so much disk may hold."""
    return max(MIN_FILES, int(disk_mb * FILES_PER_MB))


async def sift(
    tree: Path, checkout: Path, *, drop: Collection[str], max_bytes: int, max_names: int
) -> Sifted:
    """Take away from a tree what a checkout has too, and `drop`, and what is no file, link or directory.

    Nobody may write there any more. Raises `SetupFailed` where what is left is too much or too odd.
    """
    return await trio.to_thread.run_sync(_sift, tree, checkout, tuple(drop), max_bytes, max_names)


def _sift(tree: Path, checkout: Path, drop: tuple[str, ...], max_bytes: int, max_names: int) -> Sifted:
    for path in drop:
        remove_below(tree, path)
    sieve = _Sieve(max_bytes, max_names)
    made, own = os.open(tree, _OPEN), os.open(checkout, _OPEN)
    try:
        sieve.run(made, own, "", 0)
    finally:
        os.close(made)
        os.close(own)
    return Sifted(tuple(sorted(sieve.roots)), sieve.bytes, sieve.names)


class _Sieve:
    def __init__(self, max_bytes: int, max_names: int) -> None:
        self._max_bytes = max_bytes
        self._max_names = max_names
        self._linked: set[tuple[int, int]] = set()
        self.roots: list[str] = []
        self.bytes = 0
        self.names = 0

    def run(self, made: int, own: int | None, prefix: str, depth: int) -> None:
        """Sift one directory; where the checkout has none of that name (`own`), all of it is new."""
        if depth > MAX_DEPTH:
            raise SetupFailed(f"the set-up makes directories more than {MAX_DEPTH} deep")
        for name in self._names(made):
            found = os.stat(name, dir_fd=made, follow_symlinks=False)
            ours = None if own is None else _look(name, own)
            if stat.S_ISDIR(found.st_mode) and ours is not None and not stat.S_ISDIR(ours.st_mode):
                remove_at(name, made)
            elif stat.S_ISDIR(found.st_mode):
                if own is not None and ours is None:
                    self._note_root(f"{prefix}{name}/")
                self._directory(name, made, own if ours else None, f"{prefix}{name}/", depth)
            elif ours is not None or not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
                os.unlink(name, dir_fd=made)
            else:
                self._keep(name, made, found, is_root=own is not None, shown=f"{prefix}{name}")

    def _names(self, fd: int) -> Iterator[str]:
        left = self._max_names - self.names + 1
        with os.scandir(fd) as listing:
            found = [entry.name for entry in islice(listing, left)]
        self.names += len(found)
        trio.from_thread.check_cancelled()
        if self.names > self._max_names:
            raise SetupFailed(f"the set-up makes more than {self._max_names} files")
        return iter(found)

    def _directory(self, name: str, made: int, own: int | None, prefix: str, depth: int) -> None:
        child = open_anyway(name, made)
        beside = None if own is None else os.open(name, _OPEN, dir_fd=own)
        try:
            self._bound(os.fstat(child))
            _strip(child)
            self.run(child, beside, prefix, depth + 1)
            empty = beside is not None and not os.listdir(child)  # noqa: PTH208 - by a descriptor
        finally:
            os.close(child)
            if beside is not None:
                os.close(beside)
        if empty:
            os.rmdir(name, dir_fd=made)

    def _keep(self, name: str, made: int, found: os.stat_result, *, is_root: bool, shown: str) -> None:
        if is_root:
            self._note_root(shown)
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o7000:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=made)
            try:
                _strip(fd)
            finally:
                os.close(fd)
        self._bound(found)

    def _note_root(self, root: str) -> None:
        if not root.isprintable():  # nor what stands for bytes that are no UTF-8
            raise SetupFailed(f"the set-up makes {root!a}, a name that is not plain text")
        self.roots.append(root)
        if len(self.roots) > MAX_ROOTS:
            raise SetupFailed(
                f"the set-up puts more than {MAX_ROOTS} names among the repository's own: "
                "let it work in fewer directories"
            )

    def _bound(self, found: os.stat_result) -> None:
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            inode = (found.st_dev, found.st_ino)
            if inode in self._linked:
                return
            self._linked.add(inode)
        self.bytes += found.st_blocks * _BLOCK
        if self.bytes > self._max_bytes:
            raise SetupFailed(f"the set-up makes more than {self._max_bytes >> 20} MB")


def _look(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _strip(fd: int) -> None:
    """Take set-id and sticky bits away; what the descriptor leads to was opened without following links."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & 0o7000:
        Path(f"/proc/self/fd/{fd}").chmod(mode & 0o777)
