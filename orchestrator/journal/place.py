"""Where the journal lies: the state directory, its lock and its file system.

Keeps out what would break the journal's promises before SQLite ever opens it: a second orchestrator on the
same files, and network file systems, whose locks and syncs do not hold. Called by `database.open_files`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import JournalInUse, JournalMisplaced, SettingsError

#: File systems whose locks, shared memory or syncs cannot be relied on.
NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p", "afs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs",
        "fuse.sshfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb2", "smb3", "smbfs",
    }
)  # fmt: skip

MIB = 1024 * 1024


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
        # Never cut to nothing before: on a full disk others would have its block.
        written = os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        os.ftruncate(lock, written)
        yield
    finally:
        os.close(lock)
