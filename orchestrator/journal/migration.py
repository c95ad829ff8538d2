"""The schema's history: applies the numbered SQL files of `migrations/` that a database has not seen.

sqlite-utils does it with the standard library's SQLite and closes before apsw opens the file: two SQLite
libraries on one file in one process break its POSIX locks. Called by `database.open_files`, and only where
something is missing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from orchestrator.errors import JournalError

if TYPE_CHECKING:
    from sqlite_utils import Database


def find_scripts(package: Path) -> Path:
    """Return where the SQL is: in the package as it is installed, beside it in a checkout."""
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


SCRIPTS = find_scripts(Path(__file__).parents[1])


def scripts(folder: str) -> dict[str, str]:
    """Return the SQL files of one database by name, in order."""
    return {path.name: path.read_text() for path in sorted((SCRIPTS / folder).glob("*.sql"))}


def migrate(path: Path, folder: str) -> None:
    """Bring the database to this version's schema, each step in a transaction of its own."""
    wanted, seen = scripts(folder), applied(path)
    if unknown := sorted(seen - wanted.keys()):
        raise JournalError(f"{path} was written by a newer version: this one knows no migration {unknown[0]}")
    if seen == wanted.keys():
        return
    import sqlite_utils  # noqa: PLC0415 - costs 0.15 s, and only where there is something to do
    from sqlite_utils.migrations import Migrations  # noqa: PLC0415

    migrations = Migrations(folder)
    for name, text in wanted.items():
        migrations(name=name)(_step(text))
    with closing(sqlite3.connect(path)) as connection:
        migrations.apply(sqlite_utils.Database(connection))


def applied(path: Path) -> set[str]:
    """Return the names of the steps that the database has seen."""
    connection = apsw.Connection(str(path))
    # Closing it must not take the write-ahead log away: on a full disk others would have its room.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    try:
        there = "SELECT count(*) FROM sqlite_schema WHERE name = '_sqlite_migrations'"
        if not connection.execute(there).get:
            return set()
        return {name for (name,) in connection.execute("SELECT name FROM _sqlite_migrations")}
    finally:
        connection.close()


def _step(text: str) -> Callable[[Database], None]:
    def step(database: Database) -> None:
        for statement in statements(text):
            database.execute(statement)

    return step


def statements(text: str) -> Iterator[str]:
    """Yield the statements of a script (sqlite3's own `executescript` would commit before it begins)."""
    pending = ""
    for line in text.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
