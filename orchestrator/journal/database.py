"""The database files: opened so that a commit is durable, checked before anything trusts them.

Keeps J2 (WAL with `synchronous=FULL`; in a power-loss simulation NORMAL loses acknowledged commits and FULL
none) and the rule of one writer: one connection does all writes and checkpoints, a second one only reads.
Called by the store.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from orchestrator.errors import JournalCorrupt, JournalError
from orchestrator.journal import migration, place, verify
from orchestrator.journal.room import Room, make_way

LOG = logging.getLogger(__name__)

#: What SQLite says of a file that is not what it was.
DAMAGE = (apsw.NotADBError, apsw.CorruptError)
#: Milliseconds to wait for a lock that somebody else's tool (a backup, say) holds.
BUSY_MS = 5000
#: Above this size a start checks the tables and the newest events, no more: see `check`.
WHOLE_CHECK_BYTES = 256 * place.MIB
WHOLE_CHAIN = 20_000
#: The write-ahead log is cut back to this after a checkpoint.
WAL_BYTES = 64 * place.MIB

#: What opens a file for writing; the tests put a file system that loses power here.
Connect = Callable[[Path], apsw.Connection]


def connect(path: Path) -> apsw.Connection:
    """Open a database for the one writer, durable at every commit."""
    return configured(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE), "FULL")


def connect_relaxed(path: Path) -> apsw.Connection:
    """Open a database whose last moments may be lost with the power."""
    return configured(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE), "NORMAL")


def connect_reader(path: Path) -> apsw.Connection:
    """Open a database for reading only."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(BUSY_MS)
    for pragma in ("query_only = ON", "trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def configured(connection: apsw.Connection, synchronous: str) -> apsw.Connection:
    """Return the connection with the journal's settings."""
    connection.set_busy_timeout(BUSY_MS)
    for pragma in (
        "journal_mode = WAL",
        f"synchronous = {synchronous}",
        "foreign_keys = ON",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        "mmap_size = 0",
        f"journal_size_limit = {WAL_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    mode = connection.execute("PRAGMA journal_mode").get
    if mode != "wal":
        raise JournalCorrupt(f"SQLite keeps the journal mode {mode!r} where it should be 'wal'")
    return connection


@dataclass(frozen=True, slots=True)
class Files:
    """The open files of the journal and of the logs."""

    writer: apsw.Connection
    reader: apsw.Connection
    log_writer: apsw.Connection
    log_reader: apsw.Connection
    room: Room
    heads: verify.Heads


def check(connection: apsw.Connection, path: Path) -> verify.Heads:
    """Check what a start can afford, and return the ends of both chains, or raise `JournalCorrupt`.

    A file up to 256 MiB is checked whole; of a larger one all but the events. Of the chain, the newest 20,000
    links. `orchestrator audit verify` checks everything, at leisure.
    """
    whole = path.stat().st_size <= WHOLE_CHECK_BYTES
    scopes = [""] if whole else [f"('{name}')" for name in verify.FOLDED]
    for scope in scopes:
        found = [row[0] for row in connection.execute(f"PRAGMA quick_check{scope}")]
        if found != ["ok"]:
            raise JournalCorrupt(f"{path} is damaged: {found[0]} (restore a backup; see docs/journal.md)")
    return verify.verify_chains(connection, newest=WHOLE_CHAIN)


@contextmanager
def open_files(home: Path, database: Path, connect: Connect = connect) -> Iterator[Files]:
    """Own the lock and the open files; refuse what cannot be trusted."""
    with ExitStack() as stack:
        try:
            files = _open(stack, home, database, connect)
        except DAMAGE as error:
            raise JournalCorrupt(f"{database} is damaged: {error} (see docs/journal.md)") from error
        except (apsw.Error, sqlite3.Error, OSError) as error:
            raise JournalError(f"the journal {database} cannot be opened: {error}") from error
        yield files


def _open(stack: ExitStack, home: Path, database: Path, connect: Connect) -> Files:
    place.make_directories(home, database)
    home, database = home.resolve(), database.resolve()
    for directory in (home, database.parent):
        place.refuse_network(directory)
    for directory in sorted({home, database.parent}):
        stack.enter_context(place.locked(directory / "lock"))
    make_way(database)
    writer, reader = _pair(stack, database, "journal", connect)
    heads = check(writer, database)
    log_writer, log_reader = _logs(stack, database.with_name("logs.db"))
    room = Room(database, writer)
    stack.callback(room.leave, log_writer)
    return Files(writer, reader, log_writer, log_reader, room, heads)


def _pair(
    stack: ExitStack, path: Path, folder: str, connect: Connect
) -> tuple[apsw.Connection, apsw.Connection]:
    """Open a database of ours for writing and for reading, made and migrated where needed."""
    place.make_file(path)
    migration.migrate(path, folder)
    writer = connect(path)
    stack.callback(writer.close)  # last, so that it is the one to clean up the write-ahead log
    reader = connect_reader(path)
    stack.callback(reader.close)
    return writer, reader


def _logs(stack: ExitStack, path: Path) -> tuple[apsw.Connection, apsw.Connection]:
    """Open the logs; damaged ones are put aside, as they are no truth that anything depends on."""
    try:
        return _pair(stack, path, "logs", connect_relaxed)
    except DAMAGE as error:
        LOG.warning(
            "%s is damaged (%s): it is kept as %s.damaged, and logs begin anew", path, error, path.name
        )
        path.replace(path.with_name(f"{path.name}.damaged"))
        for suffix in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _pair(stack, path, "logs", connect_relaxed)
