"""The one file by which an agent hands over its result: beside its worktree, so that it never lands.

The invariant: it is opened relative to a directory of the agents' user, without following a link or waiting
for a writer, and only as much of it is read as is asked for; whatever an agent puts in its place is refused
in words and hurts nobody. Called by `worktree`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import ResultMalformed
from orchestrator.repo.removal import open_anyway

FILE_NAME = "result.json"


def clear(outbox: Path) -> None:
    """Remove what was handed over before, so that what is found later is new."""
    with suppress(FileNotFoundError, IsADirectoryError), _opened(outbox) as directory:
        os.unlink(FILE_NAME, dir_fd=directory)


def read(outbox: Path, *, max_bytes: int) -> bytes | None:
    """Return the start of the file, one byte more than `max_bytes` at most; None where there is none.

    Raises `ResultMalformed` for what is no plain file.
    """
    try:
        with _opened(outbox) as directory:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(FILE_NAME, flags, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultMalformed(f"{FILE_NAME} cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise ResultMalformed(f"{FILE_NAME} is no plain file")
        return os.read(file, max_bytes + 1)  # of a plain file that is all there is, or that much
    finally:
        os.close(file)


@contextmanager
def _opened(outbox: Path) -> Iterator[int]:
    above = os.open(outbox.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        directory = open_anyway(outbox.name, above)
    finally:
        os.close(above)
    try:
        yield directory
    finally:
        os.close(directory)
