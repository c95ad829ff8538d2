"""The state as clients see it: from the core's values to the answers of `core.answer`.

Pure: everything live (resources, places in the line) is given in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from orchestrator.core import answer
from orchestrator.core.events import Recorded
from orchestrator.core.model import Agent, Control, Task, Verdict
from orchestrator.core.queue_answer import QueueItem, QueueOptions, QueueStats
from orchestrator.core.reports import KillReport
from orchestrator.journal.counts import Counts
from orchestrator.journal.queue_rows import QueueRow


def agent_summary(agent: Agent) -> answer.AgentSummary:
    """Return what a list shows of an agent."""
    return answer.AgentSummary(
        agent_id=agent.id,
        task_id=agent.task_id,
        status=agent.status,
        phase=agent.phase,
        role=agent.role,
        runtime=agent.runtime,
        priority=agent.priority,
        attempt=agent.attempt,
        spawned_at=agent.spawned_at,
        started_at=agent.started_at,
        completed_at=agent.completed_at,
        reason=agent.reason,
        error=agent.error,
        usage=agent.usage,
        branch=agent.branch,
        commit=agent.commit,
        pull_request=agent.pull_request,
        next_agent_id=agent.next_agent_id,
    )


def agent_detail(
    agent: Agent,
    *,
    queue_position: int | None,
    resources: answer.ResourceUse,
    waits_for: tuple[str, ...] = (),
) -> answer.AgentDetail:
    """Return everything about an agent."""
    return answer.AgentDetail(
        **dict(agent_summary(agent)),
        queue_position=queue_position,
        waits_for=waits_for,
        resources=resources,
        gates=tuple(gate_summary(verdict) for verdict in agent.verdicts),
        ai_share=agent.ai_share,
        yolo=agent.yolo,
        parked=agent.parked,
        result=agent.result,
    )


def proof(report: KillReport, tier: str) -> dict[str, Any]:
    """Return what every answer to the kill of one agent says: who it was, and that nothing of it is left."""
    return {**asdict(report), "tier": tier}


def gate_summary(verdict: Verdict) -> answer.GateSummary:
    """Return a verdict without its evidence."""
    return answer.GateSummary(
        gate=verdict.gate,
        approved=verdict.approved,
        message=verdict.message,
        commit=verdict.commit,
        round=verdict.round,
        exit_code=verdict.exit_code,
        duration_ms=verdict.duration_ms,
        tests=verdict.tests,
        coverage=verdict.coverage,
    )


def task_summary(task: Task) -> answer.TaskSummary:
    """Return what a list shows of a task."""
    return answer.TaskSummary(
        task_id=task.id,
        status=task.status,
        agent_id=task.agent_id,
        attempt=task.attempt,
        agent_type=task.spec.agent_type,
        priority=task.spec.priority,
        repository=task.spec.context.repository,
        branch=task.spec.context.branch,
        submitted_at=task.submitted_at,
        completed_at=task.completed_at,
        reason=task.reason,
        error=task.error,
    )


def task_detail(task: Task, attempts: Iterable[Agent], events: Iterable[Recorded]) -> answer.TaskDetail:
    """Return everything about a task."""
    return answer.TaskDetail(
        **dict(task_summary(task)),
        spec=task.spec,
        attempts=tuple(agent_summary(agent) for agent in attempts),
        events=tuple(event_body(recorded) for recorded in events),
    )


def queue_stats(counts: Counts, control: Control) -> QueueStats:
    """Return how the queue stands."""
    return QueueStats(
        pending=counts.pending,
        active=counts.active,
        completed=counts.completed,
        failed=counts.failed,
        delayed=counts.delayed,
        paused=control.paused,
        concurrency=control.queue_concurrency,
    )


def queue_options(control: Control) -> QueueOptions:
    """Return the queue's settings."""
    return QueueOptions(
        paused=control.paused,
        stop_on_failure=control.stop_on_failure,
        max_concurrent=control.queue_concurrency,
    )


def queue_item(row: QueueRow, position: int | None) -> QueueItem:
    """Return an item of the queue, in its four words: who was cancelled has failed."""
    known = row.status in {"queued", "processing", "completed"}
    return QueueItem(
        id=row.id,
        task_id=row.task_id,
        agent_id=row.agent_id,
        position=position,
        status=row.status if known else "failed",
        priority=row.priority,
        queued_at=datetime.fromisoformat(row.queued_at),
        completed_at=datetime.fromisoformat(row.completed_at) if row.completed_at else None,
    )


def event_body(recorded: Recorded) -> answer.EventBody:
    """Return an event as clients see it."""
    event = recorded.event
    return answer.EventBody(
        seq=recorded.seq,
        id=recorded.id,
        type=event.name,
        time=recorded.time,
        agent_id=event.agent_id,
        task_id=event.task_id,
        data=event.payload(),
    )
