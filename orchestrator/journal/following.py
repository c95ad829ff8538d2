"""What the waiting line is told: of each group of commits, and at a start, of the claims before it.

Called by `store`.
"""

from __future__ import annotations

import apsw

from orchestrator.core.claims import REMEMBERED, Claim
from orchestrator.core.events import TaskAssigned
from orchestrator.journal.group import Group
from orchestrator.journal.line import WaitingLine


def follow(line: WaitingLine, group: Group) -> None:
    """Move the line on by what was committed."""
    for recorded in group.recorded:
        if isinstance(recorded.event, TaskAssigned):
            spec = group.tasks[recorded.event.task_id].value.spec
            line.claimed(Claim(recorded.seq, spec.context.repository, spec.priority))
    for agent_id in group.agents:
        line.update(agent_id, group.state)


def latest_claims(connection: apsw.Connection) -> list[Claim]:
    """Return the claims that the line remembers, oldest first."""
    sql = (
        "SELECT e.seq, t.repo, t.priority FROM events e JOIN tasks t ON t.id = e.task_id"
        " WHERE e.type = 'task.assigned' ORDER BY e.seq DESC LIMIT ?"
    )
    found = connection.execute(sql, (REMEMBERED,)).fetchall()
    return [Claim(int(seq), str(repository), int(priority)) for seq, repository, priority in reversed(found)]
