"""What of the state is in Valkey: keys, values, places in the queue, and how long each stays. Pure.

Every value is a function of its task or agent as it is journaled, so a copy that was kept up to date and one
that was made anew are the same, byte for byte. Names are promises (docs/mirror.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from orchestrator.core import events as e
from orchestrator.core.model import Agent, Phase, Task
from orchestrator.core.moment import iso

TASK, AGENT = "orchestrator:task:", "orchestrator:agent:"
QUEUE = "orchestrator:queue"
#: The channel.
EVENTS = "orchestrator:events"
#: Which journal this is a copy of, and up to which event that was published.
MARKER = "orchestrator:mirror"
#: The journal whose orchestrator writes here now; it expires.
WRITER = "orchestrator:mirror:writer"
#: The queue on its way.
NEW_QUEUE = "orchestrator:mirror:queue"

#: How long what has ended stays.
KEEP = timedelta(days=7)
#: More than any sequence number will be; ten times this is a whole number of a double.
_STRIDE = 10**14
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: The events that change a value or a place here; all others are only published.
TELLING = (
    e.TaskSubmitted,
    e.TaskQueued,
    e.TaskAssigned,
    e.TaskExecuting,
    e.TaskCompleted,
    e.TaskFailed,
    e.TaskCancelled,
    e.TaskRetryScheduled,
    e.AgentSpawning,
    e.AgentRunning,
    e.AgentResumed,
    e.AgentCompleted,
    e.AgentFailed,
    e.AgentKilled,
)


class Entry(NamedTuple):
    """A key: its value, None where it must not be, and when it expires, in ms since 1970."""

    key: str
    value: str | None = None
    expires_ms: int | None = None


class Place(NamedTuple):
    """A task's place in the queue, None where it does not wait."""

    task_id: str
    score: int | None = None


class Touched(NamedTuple):
    """Whose entries may be others now."""

    tasks: frozenset[str] = frozenset()
    agents: frozenset[str] = frozenset()


def touched(events: Iterable[e.Recorded]) -> Touched:
    """Return whom the events change."""
    telling = [recorded.event for recorded in events if isinstance(recorded.event, TELLING)]
    return Touched(
        frozenset(event.task_id for event in telling),
        frozenset(event.agent_id for event in telling if event.agent_id is not None),
    )


def task_entry(task: Task, agent: Agent | None, now: datetime) -> Entry:
    """Return a task's entry; `agent` is that of its latest attempt, which an ended task does not need."""
    moments = (agent.started_at, agent.spawned_at) if agent else ()
    latest = next((moment for moment in moments if moment is not None), task.submitted_at)
    said = {
        "taskId": task.id,
        "status": task.status,
        "agentId": task.agent_id,
        "attempt": task.attempt,
        "priority": task.spec.priority,
        "context": task.spec.context.model_dump(mode="json"),
        "createdAt": iso(task.submitted_at),
        "updatedAt": iso(task.completed_at or max(latest, task.submitted_at)),
        "completedAt": _iso(task.completed_at),
        "notBefore": _iso(agent.not_before) if agent and agent.live else None,
        "reason": task.reason,
        "error": task.error,
    }
    return _entry(TASK + task.id, said, task.completed_at, now)


def agent_entry(agent: Agent, now: datetime) -> Entry:
    """Return an agent's entry."""
    said = {
        "agentId": agent.id,
        "status": agent.status,
        "taskId": agent.task_id,
        "agentType": agent.role,
        "attempt": agent.attempt,
        "spawnedAt": iso(agent.spawned_at),
        "startedAt": _iso(agent.started_at),
        "completedAt": _iso(agent.completed_at),
        "reason": agent.reason,
        "error": agent.error,
    }
    return _entry(AGENT + agent.id, said, agent.completed_at, now)


def place(task: Task, agent: Agent | None) -> Place:
    """Return where a task stands: the lowest score goes next, priority before age."""
    if agent is None or not agent.live or agent.phase is not Phase.QUEUED:
        return Place(task.id)
    return Place(task.id, (10 - agent.priority) * _STRIDE + agent.queued_seq)


def _entry(key: str, said: dict[str, object], ended: datetime | None, now: datetime) -> Entry:
    if ended is not None and ended + KEEP <= now:
        return Entry(key)
    kept = {name: value for name, value in said.items() if value is not None}
    expires_ms = None if ended is None else (ended + KEEP - _EPOCH) // timedelta(milliseconds=1)
    return Entry(key, json.dumps(kept, separators=(",", ":")), expires_ms)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)
