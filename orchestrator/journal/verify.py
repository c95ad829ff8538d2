"""The check of both hash chains: nothing changed, missing, added or moved since it was written (J3).

A chain alone cannot show that its end was cut off, so the tables are asked too: no row may be newer than the
newest event. Called at every start for the newest links, and by `orchestrator audit verify` for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import apsw

from orchestrator.errors import JournalCorrupt
from orchestrator.journal.encoding import GENESIS, canonical, chained, dump

#: The tables that are folds of the journal.
FOLDED = ("agents", "tasks", "queue", "queue_settings", "verdicts", "turns", "spend")
_NEWEST = ("SELECT max(last_seq) FROM agents", "SELECT max(last_seq) FROM tasks",
           "SELECT max(seq) FROM verdicts", "SELECT max(seq) FROM turns",
           "SELECT max(seq) FROM messages")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Heads:
    """The ends of both chains; whoever keeps them elsewhere can show later that nothing was cut off."""

    seq: int
    hash: str
    audit_seq: int
    audit_hash: str


def verify_chains(connection: apsw.Connection, *, newest: int | None = None) -> Heads:
    """Return the ends of both chains, or raise `JournalCorrupt` naming the first entry that does not fit."""
    seq, digest = _verify(connection, "events", _event_links, newest)
    for question in _NEWEST:
        last = connection.execute(question).get
        if last is not None and last > seq:
            raise JournalCorrupt(f"the journal ends at event {seq}, but its tables know event {last}")
    if newest is None:
        _verify_messages(connection)
    audit_seq, audit_digest = _verify(connection, "audit", _audit_links, newest)
    return Heads(seq, digest, audit_seq, audit_digest)


def verify_file(path: Path) -> Heads:
    """Verify a journal file whole, also while an orchestrator writes it; a copy will do."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.set_busy_timeout(5000)
        # One snapshot for all questions: what is committed between two of them would look like damage.
        connection.execute("BEGIN")
        return verify_chains(connection)
    finally:
        connection.close()


def _verify_messages(connection: apsw.Connection) -> None:
    """Hold the words beside the journal against their hashes in it."""
    told = (
        "SELECT e.seq, m.content, e.data->>'contentHash' FROM messages m FULL JOIN events e ON e.seq = m.seq"
        " WHERE m.seq IS NOT NULL OR e.type IN ('agent.turn', 'agent.usage') AND e.data LIKE '%contentHash%'"
    )
    for seq, content, digest in connection.execute(told):
        if digest is None and content is None:
            continue  # the words of an agent that say `contentHash`
        if content is None:
            raise JournalCorrupt(f"messages: what was said at event {seq} is missing")
        if sha256(content.encode()).hexdigest() != digest:
            raise JournalCorrupt(f"messages: what was said at event {seq} is not what was written")


_Link = tuple[int, str, str]


def _event_links(connection: apsw.Connection, after: int) -> Iterator[_Link]:
    sql = "SELECT seq, id, type, time, agent_id, task_id, data, hash FROM events WHERE seq > ? ORDER BY seq"
    for *fields, digest in connection.execute(sql, (after,)):
        yield fields[0], canonical(*fields), digest


def _audit_links(connection: apsw.Connection, after: int) -> Iterator[_Link]:
    sql = (
        "SELECT seq, time, actor, action, target, outcome, detail, hash FROM audit WHERE seq > ? ORDER BY seq"
    )
    for *fields, digest in connection.execute(sql, (after,)):
        yield fields[0], dump(fields), digest


def _verify(
    connection: apsw.Connection,
    table: str,
    links: Callable[[apsw.Connection, int], Iterator[_Link]],
    newest: int | None,
) -> tuple[int, str]:
    last = connection.execute(f"SELECT coalesce(max(seq), 0) FROM {table}").get  # noqa: S608
    seq = 0 if newest is None else max(0, last - newest)
    previous = GENESIS
    if seq:
        previous = connection.execute(f"SELECT hash FROM {table} WHERE seq = ?", (seq,)).get  # noqa: S608
        if previous is None:
            raise JournalCorrupt(f"{table}: entry {seq} is missing")
    for found, text, digest in links(connection, seq):
        seq += 1
        if found != seq:
            raise JournalCorrupt(f"{table}: entry {seq} is missing")
        if chained(previous, text) != digest:
            raise JournalCorrupt(f"{table}: entry {seq} is not what was written")
        previous = digest
    return seq, previous
