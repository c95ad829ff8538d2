"""Remove what an agent wrote, without ever following where it leads.

The invariant: every step is relative to a descriptor of a directory below the one named, opened without
following links, so nothing outside can be touched, however deep or hostile the tree. It is done in a thread,
for a busy disk may take a millisecond a name, and a kill must not wait for that. Callers: `worktree`,
`checkouts`, `setups`, `sifting`, `mirrors`, `workspace` and `underlay`.
"""

from __future__ import annotations

import os
import stat
from itertools import count, islice
from pathlib import Path

import trio

#: Deeper directories are moved to the top first: each level holds a descriptor, and agents can nest without
#: end.
_MAX_DEPTH = 24
_BATCH = 256
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


async def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it; nothing happens where there is none. Raises `OSError`.

    Cancelled in the middle, it leaves a part that the next call removes.
    """
    await trio.to_thread.run_sync(_remove, path)


def _remove(path: Path) -> None:
    parent = os.open(path.parent, _OPEN & ~os.O_NOFOLLOW)
    try:
        remove_at(path.name, parent)
    finally:
        os.close(parent)


def remove_at(name: str, parent: int) -> None:
    """Remove what has a name in an open directory, if there is anything; for a thread of Trio's."""
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        _Removal(name, parent).run()
    else:
        os.unlink(name, dir_fd=parent)


def remove_below(tree: Path, path: str) -> None:
    """Remove one path below a directory, if every step of the way is a directory; for a thread of Trio's."""
    *way, last = path.split("/")
    at = os.open(tree, _OPEN)
    try:
        for name in way:
            try:
                above, at = at, open_anyway(name, at)
            except (FileNotFoundError, NotADirectoryError):
                return
            os.close(above)
        remove_at(last, at)
    finally:
        os.close(at)


class _Removal:
    def __init__(self, name: str, parent: int) -> None:
        self._name = name
        self._parent = parent
        self._numbers = count()
        self._top = -1

    def run(self) -> None:
        self._top = open_anyway(self._name, self._parent)
        try:
            self._empty(self._top, 0)
        finally:
            os.close(self._top)
        os.rmdir(self._name, dir_fd=self._parent)

    def _empty(self, fd: int, depth: int) -> None:
        # Directories that were too deep turn up again at the top, before its listing is found empty.
        while batch := _entries(fd):
            for name, is_directory in batch:
                if not is_directory:
                    os.unlink(name, dir_fd=fd)
                elif depth < _MAX_DEPTH:
                    child = open_anyway(name, fd)
                    try:
                        self._empty(child, depth + 1)
                    finally:
                        os.close(child)
                    os.rmdir(name, dir_fd=fd)
                else:
                    self._lift(name, fd)
            trio.from_thread.check_cancelled()

    def _lift(self, name: str, fd: int) -> None:
        """Move a directory to the top, under a name that nothing there has."""
        os.close(open_anyway(name, fd))  # it must be writable by us to get another parent
        while True:
            lifted = f"deep-{next(self._numbers)}"
            try:
                os.stat(lifted, dir_fd=self._top, follow_symlinks=False)
            except FileNotFoundError:
                os.rename(name, lifted, src_dir_fd=fd, dst_dir_fd=self._top)
                return


def _entries(fd: int) -> list[tuple[str, bool]]:
    """Return the first entries of a directory, and which of them are directories themselves."""
    with os.scandir(fd) as listing:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(listing, _BATCH)]


def open_anyway(name: str, parent: int) -> int:
    """Open a directory of ours, whatever its mode says: an agent may set any, and the kernel leaves 000."""
    path_fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if stat.S_IMODE(os.fstat(path_fd).st_mode) & 0o700 != 0o700:
            Path(f"/proc/self/fd/{path_fd}").chmod(0o700)  # leads to the inode itself, not to a name
    finally:
        os.close(path_fd)
    return os.open(name, _OPEN, dir_fd=parent)


def open_ways(start: Path, *names: str) -> None:
    """Make a directory of ours below `start` enterable, and each on the way to it, as `open_anyway` does."""
    at = os.open(start, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            above, at = at, open_anyway(name, at)
            os.close(above)
    finally:
        os.close(at)
