"""The rows of the queue as they are listed: who works, who waits, and who has ended since the last clearing.

Every question is bounded, and goes along an index. Called by the API with `Archive.read`.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

import apsw

from orchestrator.core.model import TaskId, TaskStatus
from orchestrator.journal.encoding import dump, iso_cached

_COLUMNS = "id, task_id, agent_id, status, priority, queued_at, completed_at"


class QueueRow(NamedTuple):
    """An agent that was queued; `id` orders those of one priority."""

    id: int
    task_id: str
    agent_id: str
    status: str
    priority: int
    queued_at: str
    completed_at: str | None


def open_rows(connection: apsw.Connection, limit: int) -> list[QueueRow]:
    """Return those that work, then those that wait by priority and age, up to the limit."""
    sql = f"SELECT {_COLUMNS} FROM queue WHERE status = ? ORDER BY priority DESC, position LIMIT ?"  # noqa: S608
    found: list[QueueRow] = []
    for status in ("processing", "queued"):
        rows: list[Any] = connection.execute(sql, (status, limit - len(found))).fetchall()
        found += [QueueRow(*row) for row in rows]
    return found


def ended_rows(connection: apsw.Connection, cleared: datetime | None, limit: int) -> list[QueueRow]:
    """Return those that ended after the clearing, the latest first, up to the limit."""
    sql = f"SELECT {_COLUMNS} FROM queue WHERE completed_at > ? ORDER BY completed_at DESC LIMIT ?"  # noqa: S608
    rows: list[Any] = connection.execute(sql, (_text(cleared), limit)).fetchall()
    return [QueueRow(*row) for row in rows]


def count_ended(connection: apsw.Connection, after: datetime | None, until: datetime | None) -> int:
    """Return how many ended after one clearing and up to the next."""
    sql = "SELECT count(*) FROM queue WHERE completed_at > ? AND completed_at <= ?"
    return int(connection.execute(sql, (_text(after), _text(until))).get)


def statuses(connection: apsw.Connection, task_ids: Collection[str]) -> dict[TaskId, TaskStatus]:
    """Return how those of the tasks stand that the tables know."""
    sql = "SELECT id, status FROM tasks WHERE id IN (SELECT value FROM json_each(?))"
    rows = connection.execute(sql, (dump(sorted(task_ids)),))
    return {TaskId(str(task_id)): TaskStatus(str(status)) for task_id, status in rows}


def _text(moment: datetime | None) -> str:
    return "" if moment is None else iso_cached(moment)
