"""A disk on which the process dies: at the n-th commit of the journal, before, in the midst of, or after it.

SIGKILL by our own hand, in the thread that writes: what was written to the file stays, as after any crash of
a process. The loss of what was not synced is `tests/journal/powerloss.py`.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import apsw

from orchestrator.journal import database

SIDES = ("before", "amidst", "after")


class DeadlyDisk(apsw.VFS):
    """Opens databases (`connect`), counts their commits, and kills once `armed`."""

    def __init__(self) -> None:
        self.commits = 0
        self._at, self._side = 0, ""
        super().__init__("deadly", "")

    def arm(self, number: int, side: str) -> None:
        """Count from here, and die at that commit."""
        self.commits, self._at, self._side = 0, number, side

    def connect(self, path: Path) -> apsw.Connection:
        """Open a database for the one writer."""
        opened = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs="deadly")
        return database.configured(opened, "FULL")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _DeadlyFile(self, name, flags)

    def reached(self, side: str) -> None:
        """Die, where this is the moment."""
        if self.commits + 1 == self._at and side == self._side:
            os.kill(os.getpid(), signal.SIGKILL)


class _DeadlyFile(apsw.VFSFile):
    def __init__(self, disk: DeadlyDisk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._disk, self._counts = disk, path.endswith(".db-wal")
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        if self._counts:
            self._disk.reached("before")
        super().xWrite(data, offset)
        if self._counts:
            self._disk.reached("amidst")

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        if self._counts:
            self._disk.reached("after")
            self._disk.commits += 1
