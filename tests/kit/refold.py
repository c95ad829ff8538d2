"""The tables of a journal, and the same journal written anew from its events alone (J4)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from orchestrator.core.events import Recorded
from orchestrator.core.machine import evolve, prune
from orchestrator.core.model import State
from orchestrator.journal import database, migration
from orchestrator.journal.encoding import GENESIS, write_event
from orchestrator.journal.group import Group, Step, write
from orchestrator.journal.verify import FOLDED, Heads


def tables(path: Path) -> dict[str, list[Any]]:
    """Return every row of the folded tables."""
    connection = database.connect_reader(path)
    try:
        connection.execute("BEGIN")  # one moment of a journal that may be written meanwhile
        return {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()
            for name in (*FOLDED, "events_of_task", "events")
        }
    finally:
        connection.close()


def refold(events: Sequence[Recorded], path: Path, chance: random.Random) -> None:
    """Write the journal anew from its events alone, in groups of other sizes."""
    path.touch()
    migration.migrate(path, "journal")
    connection = database.configured(apsw.Connection(str(path)), "OFF")
    try:
        state, previous = State(), GENESIS
        group = Group(state, Heads(0, previous, 0, previous))
        for recorded in events:
            again, row = write_event(recorded.seq, recorded.id, recorded.time, recorded.event, previous)
            assert again == recorded
            after = evolve(state, again)
            group.add(Step(again, row, state, after))
            state, previous = prune(after, again.event), again.hash
            if chance.random() < 0.3:
                write(connection, list(group.statements()), bool)
                group = Group(state, Heads(0, previous, 0, previous))
        write(connection, list(group.statements()), bool)
    finally:
        connection.close()
