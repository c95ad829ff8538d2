"""Where the journal lies: the state directory, its lock, its file system, and the room left on its disk.

Keeps out what would break the journal's promises before SQLite ever opens it: a second orchestrator on the
same files, and network file systems, whose locks and syncs do not hold. Called by `database.open_files`.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import JournalInUse, JournalMisplaced, SettingsError

LOG = logging.getLogger(__name__)

#: File systems whose locks, shared memory or syncs cannot be relied on.
NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p", "afs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs",
        "fuse.sshfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb2", "smb3", "smbfs",
    }
)  # fmt: skip

MIB = 1024 * 1024
#: By how much less is tried where others were faster to take the ballast's room.
SLICE_BYTES = MIB // 4


def file_system_of(path: Path, mountinfo: str) -> str:
    """Return the type of the file system that holds the path, by the text of `/proc/self/mountinfo`."""
    best, kind = -1, "unknown"
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        mount_point = Path(before.split()[4].encode().decode("unicode_escape"))
        if path.is_relative_to(mount_point) and len(mount_point.parts) >= best:
            best, kind = len(mount_point.parts), after.split()[0]
    return kind


def refuse_network(directory: Path, mountinfo: str | None = None) -> None:
    """Raise `JournalMisplaced` where the directory lies on a network file system."""
    mountinfo = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    kind = file_system_of(directory.resolve(), mountinfo)
    if kind in NETWORK_FILE_SYSTEMS:
        raise JournalMisplaced(
            f"{directory} lies on {kind}, whose locks and syncs do not hold: set ORCHESTRATOR_HOME or"
            " DATABASE_PATH to a directory on a local disk"
        )


def make_directories(home: Path, database: Path) -> None:
    """Make the state directory and the database's, closed to other users.

    Root's agents run as another user and must pass through the state directory, so there it may be entered,
    not read.
    """
    mode = 0o711 if os.geteuid() == 0 else 0o700
    home.mkdir(mode=mode, parents=True, exist_ok=True)
    if home.stat().st_uid == os.geteuid():
        home.chmod(mode)
    try:  # without its parents: a slip in the path would leave directories where nobody looks for them
        database.parent.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"DATABASE_PATH: the directory {database.parent} cannot be made: {error.strerror}"
            " (name a file in a directory that exists, or in a new one below it)"
        ) from error


def make_file(path: Path) -> None:
    """Make an empty private file, durably; one that is there stays as it is, but private."""
    # Never opened when it exists: closing any descriptor of it would drop SQLite's locks.
    if path.exists():
        path.chmod(0o600)
        return
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in the directory durable."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file for ourselves alone, or raise `JournalInUse` with the pid of who holds it."""
    lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise JournalInUse(
                f"the orchestrator with pid {holder} runs on {path.parent}: stop it, or set ORCHESTRATOR_HOME"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


class Room:
    """The room left on the journal's disk: a watermark for new work, and a ballast for ending the old.

    New tasks are refused below the watermark. The ballast file is kept until a commit finds the disk full;
    then its room goes to the write-ahead log, as whoever fills the disk would take what is merely free. So
    kills and ends still fit. It is taken again once there is room for both.
    """

    def __init__(
        self, database: Path, *, reserve_bytes: int = 64 * MIB, ballast_bytes: int = 8 * MIB
    ) -> None:
        directory = self._directory = database.parent
        self._log = database.with_name(f"{database.name}-wal")
        self._ballast = directory / "ballast"
        self._reserve_bytes = reserve_bytes
        self._ballast_bytes = ballast_bytes

    def free_bytes(self) -> int:
        """Return what an ordinary user may still write."""
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize

    @property
    def short(self) -> bool:
        """Whether there is too little for new work."""
        return self.free_bytes() < self._reserve_bytes

    def release(self) -> bool:
        """Give the ballast's room to the write-ahead log; return whether there was any.

        Only for the thread that writes the journal. SQLite takes what lies behind its own end for the rest of
        an older log, and holds no lock on this file that closing it here could drop.
        """
        try:
            log = os.open(self._log, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            self._ballast.unlink()
            gained = self._extend(log)
        except OSError:
            return False
        finally:
            os.close(log)
        LOG.warning("the disk is full: kills and ends go into the last %s bytes", gained)
        return gained > 0

    def _extend(self, log: int) -> int:
        """Reserve room behind the log's end, as much of the ballast's as nobody has taken meanwhile."""
        end = os.fstat(log).st_size
        for wanted in range(self._ballast_bytes, 0, -SLICE_BYTES):
            with suppress(OSError):
                os.posix_fallocate(log, end, wanted)
                return wanted
            os.ftruncate(log, end)  # of what a failed try has left there
        return 0

    def balance(self) -> None:
        """Take the ballast (again) where there is room for it above the watermark."""
        with suppress(OSError):  # a commit must not fail for the sake of its safety net
            short = self.free_bytes() <= self._reserve_bytes + self._ballast_bytes
            if not short and self._held_bytes() < self._ballast_bytes:
                self._fill()

    def _held_bytes(self) -> int:
        return self._ballast.stat().st_size if self._ballast.exists() else 0

    def _fill(self) -> None:
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        ballast = os.open(self._ballast, flags, 0o600)
        try:
            os.posix_fallocate(ballast, 0, self._ballast_bytes)
        finally:
            os.close(ballast)
