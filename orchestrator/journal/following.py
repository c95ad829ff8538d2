"""What the waiting line is told: of each group of commits, and at a start, of the claims before it.

Called by `store`.
"""

from __future__ import annotations

import apsw

from orchestrator.core.claims import REMEMBERED, Claim
from orchestrator.core.events import (
    Event,
    TaskAssigned,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskSubmitted,
)
from orchestrator.core.model import State, TaskId, TaskStatus
from orchestrator.journal.group import Group
from orchestrator.journal.line import WaitingLine
from orchestrator.journal.queue_rows import statuses

_STANDS: dict[type[Event], TaskStatus] = {
    TaskSubmitted: TaskStatus.PENDING,
    TaskCompleted: TaskStatus.COMPLETED,
    TaskFailed: TaskStatus.FAILED,
    TaskCancelled: TaskStatus.CANCELLED,
}


def follow(line: WaitingLine, group: Group) -> None:
    """Move the line on by what was committed."""
    for recorded in group.recorded:
        if isinstance(recorded.event, TaskAssigned):
            spec = group.tasks[recorded.event.task_id].value.spec
            line.claimed(Claim(recorded.seq, spec.context.repository, spec.priority))
    for agent_id in line.blocked.news(_statuses(group)) | group.agents.keys():
        line.update(agent_id, group.state)


def _statuses(group: Group) -> dict[TaskId, TaskStatus]:
    """Return how those tasks stand now that were handed over or have ended."""
    return {
        event.task_id: _STANDS[type(event)]
        for recorded in group.recorded
        if isinstance(event := recorded.event, TaskSubmitted | TaskCompleted | TaskFailed | TaskCancelled)
    }


def open_line(state: State, connection: apsw.Connection) -> WaitingLine:
    """Return the line as the state and the tables have it."""
    wanted = {name for agent in state.agents.values() for name in agent.waits_for if name not in state.tasks}
    return WaitingLine(state, _latest_claims(connection), statuses(connection, wanted) if wanted else {})


def _latest_claims(connection: apsw.Connection) -> list[Claim]:
    """Return the claims that the line remembers, oldest first."""
    sql = (
        "SELECT e.seq, t.repo, t.priority FROM events e JOIN tasks t ON t.id = e.task_id"
        " WHERE e.type = 'task.assigned' ORDER BY e.seq DESC LIMIT ?"
    )
    found = connection.execute(sql, (REMEMBERED,)).fetchall()
    return [Claim(int(seq), str(repository), int(priority)) for seq, repository, priority in reversed(found)]
