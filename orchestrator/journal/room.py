"""The room left on the journal's disk: a watermark for new work, and a ballast for ending the old.

New tasks are refused below the watermark. The ballast is a file that is kept until a commit finds the disk
full; whoever fills the disk would take what is merely free. Then its room goes to the database, which grows
by what is appended, and to the write-ahead log, which is used over and over once the database can take it
in. Half of what the database may then still grow by is kept for ends: it suffices for everything that lives,
however often it was frozen and thawed before. The ballast is taken again once there is room for it.

The invariants: what is promised to ends nobody else gets; nothing here makes a commit fail. Owned by
`database`; but for `short` and `scarce`, called by the thread that writes the journal.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import apsw

from orchestrator.journal.place import MIB

LOG = logging.getLogger(__name__)

#: By how much less is tried where others were faster to take the ballast's room.
SLICE_BYTES = MIB // 4
#: What the end of one task takes of the database, whatever its name: its events, its rows and its audit.
END_BYTES = 2048
#: The parts of the ballast that go to the write-ahead log, and that are kept for what cannot be counted.
_LOG_PART = _KEPT_PART = 4
#: The most that SQLite counts in, growing a file.
_MOST_CHUNK = 2**31 - 1


def make_way(database: Path) -> None:
    """Take what opening the files needs from the ballast, where the disk is full."""
    ballast = database.with_name("ballast")
    with suppress(OSError):
        disk, held = os.statvfs(database.parent), ballast.stat().st_size
        if disk.f_bavail * disk.f_frsize < MIB < held:
            os.truncate(ballast, held - MIB)


def _fit(end: int, least: int, chunk: int) -> tuple[bool, int]:
    """Return how badly a file of so many bytes, cut to a multiple of the chunk, keeps the least behind."""
    behind = -end % chunk
    return behind < least, behind


class Room:
    """What may still be written, and for what."""

    def __init__(
        self,
        database: Path,
        writer: apsw.Connection,
        *,
        reserve_bytes: int = 64 * MIB,
        ballast_bytes: int = 16 * MIB,
    ) -> None:
        """Take the watermark, and the least ballast: it grows with what lives."""
        directory = self._directory = database.parent
        self._database, self._writer = database, writer
        self._log = database.with_name(f"{database.name}-wal")
        self._ballast = directory / "ballast"
        self._reserve_bytes, self._ballast_bytes = reserve_bytes, ballast_bytes
        self._lives = 0
        #: What the journal may still grow by; without end while there is ballast.
        self._left_bytes = math.inf

    def free_bytes(self) -> int:
        """Return what an ordinary user may still write."""
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize

    @property
    def short(self) -> bool:
        """Whether there is too little for new work."""
        return self.free_bytes() < self._reserve_bytes

    @property
    def scarce(self) -> bool:
        """Whether what is left is kept for ends."""
        return self._left_bytes < self._ballast_bytes // _KEPT_PART + self._lives * END_BYTES

    def remedies(self) -> Iterator[str]:
        """Make room for a commit that found none, one way after the other; yield what was done."""
        if self._release():
            yield "the ballast was given away"
        if self._fold():
            yield "the log is used anew"

    def _release(self) -> bool:
        """Give the ballast's room to the database and its write-ahead log; return whether there was any.

        SQLite takes what lies behind the log's end for the rest of an older log, and holds no lock on that
        file that closing it here could drop.
        """
        try:
            log = os.open(self._log, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            held = self._ballast.stat().st_size
            self._ballast.unlink()
            grown = self._grow(held - min(held, self._ballast_bytes) // _LOG_PART)
            gained = grown + self._extend(log, held - grown)
        except OSError:
            return False
        finally:
            os.close(log)
        LOG.warning("the disk is full: kills and ends go into the last %s bytes", gained)
        self._fold()
        self.measure()
        return gained > 0

    def _grow(self, wanted: int) -> int:
        """Let the database's file grow, as much of the wanted as nobody has taken meanwhile; return that.

        What is in the log only needs some of it. A checkpoint cuts the file to a multiple of the chunk, which
        must leave what was reserved.
        """
        size, end = self._database.stat().st_size, self._end_bytes()
        most = size + wanted - end  # behind what the log holds
        for least in range(most, 0, -max(SLICE_BYTES, most // 16)):
            chunk = min(range(least, 2 * least, SLICE_BYTES), key=partial(_fit, end, least))
            if not least <= -end % chunk <= most or chunk > _MOST_CHUNK:
                continue
            with suppress(apsw.Error):
                self._control(apsw.SQLITE_FCNTL_CHUNK_SIZE, ctypes.c_int(chunk))
                self._control(apsw.SQLITE_FCNTL_SIZE_HINT, ctypes.c_int64(end + least))
                return end + -end % chunk - size
        self._control(apsw.SQLITE_FCNTL_CHUNK_SIZE, ctypes.c_int(0))
        return 0

    def _keep_grown(self) -> None:
        """Go on with the room that an earlier life reserved behind the database's end."""
        size = self._database.stat().st_size
        behind = size - self._end_bytes()
        parts = range(size // behind, 0, -1) if behind > 0 else ()
        chunk = next((size // part for part in parts if size % part == 0), 0)
        self._control(apsw.SQLITE_FCNTL_CHUNK_SIZE, ctypes.c_int(chunk if chunk <= _MOST_CHUNK else 0))

    def _control(self, operation: int, value: ctypes.c_int | ctypes.c_int64) -> None:
        self._writer.file_control("main", operation, ctypes.addressof(value))

    def _pages_bytes(self, which: str) -> int:
        """Return the bytes of the database's pages that a pragma counts, those in the log too."""
        count, size = (self._writer.execute(f"PRAGMA {name}").get for name in (which, "page_size"))
        return int(count) * int(size)

    def _end_bytes(self) -> int:
        return self._pages_bytes("page_count")

    def _extend(self, log: int, wanted: int) -> int:
        """Reserve room behind the log's end, as much of the wanted as nobody has taken meanwhile."""
        end = os.fstat(log).st_size
        for less in range(wanted, 0, -SLICE_BYTES):
            with suppress(OSError):
                os.posix_fallocate(log, end, less)
                return less
            os.ftruncate(log, end)  # of what a failed try has left there
        return 0

    def _fold(self) -> bool:
        """Take the log into the database, so that its room is used anew; return whether that was done."""
        with suppress(apsw.Error):  # a reader, or no room behind the database's end
            for busy, frames, folded in self._writer.execute("PRAGMA wal_checkpoint(RESTART)"):
                return bool(not busy and 0 < frames == folded)
        return False

    def balance(self, lives: int) -> None:
        """Take the ballast (again) where there is room above the watermark, for so many tasks to be ended."""
        self._lives = lives
        wanted = self._ballast_bytes + -(-lives * END_BYTES // MIB) * MIB
        with suppress(OSError, apsw.Error):  # a commit must not fail for the sake of its safety net
            held = self._held_bytes()
            if held and self.free_bytes() < MIB:
                self._release()  # now: a log that cannot be taken in grows, and the database with it
            elif held < wanted and self.free_bytes() > self._reserve_bytes + wanted - held:
                self._fill(wanted)
                self._control(apsw.SQLITE_FCNTL_CHUNK_SIZE, ctypes.c_int(0))
                self._left_bytes = math.inf
            elif held > 2 * wanted:
                os.truncate(self._ballast, wanted)
            elif held == 0 and self._left_bytes == math.inf:
                self._keep_grown()
        self.measure()

    def measure(self) -> None:
        """Look at what is left where there is no ballast."""
        with suppress(OSError, apsw.Error):
            if self._held_bytes() == 0:
                behind = self._database.stat().st_size - self._end_bytes()
                unused = self._pages_bytes("freelist_count")
                self._left_bytes = self.free_bytes() + max(0, behind) + unused

    @property
    def spent(self) -> bool:
        """Whether the ballast was given away."""
        return self._left_bytes < math.inf

    def leave(self, *others: apsw.Connection) -> None:
        """Keep the write-ahead logs over the closing where their room would be lost, for the next start."""
        for connection in (self._writer, *others) if self.spent else ():
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def _held_bytes(self) -> int:
        return self._ballast.stat().st_size if self._ballast.exists() else 0

    def _fill(self, wanted: int) -> None:
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        ballast = os.open(self._ballast, flags, 0o600)
        try:
            os.posix_fallocate(ballast, 0, wanted)
        finally:
            os.close(ballast)
