"""Agents and tasks as rows of the tables, and back again, without loss.

Keeps J4 together with `group`: a row is a function of the folded value alone (and of the few facts that only
an event holds). What clients of the database query has columns of its own; the rest of an agent is one JSON
column. Words of an enumeration go in as plain strings, which `encoding.dump_rows` writes many times faster.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from orchestrator.core.model import (
    NO_USAGE,
    Agent,
    AgentId,
    AgentStatus,
    Parked,
    Phase,
    PushIntent,
    Reason,
    Task,
    TaskId,
    TaskStatus,
    Verdict,
)
from orchestrator.core.spec import Role
from orchestrator.journal.encoding import dump, iso_cached
from orchestrator.journal.figures import figures, read_figures
from orchestrator.journal.words import read_words, words

#: The columns of a row that an agent is rebuilt from.
AGENT_COLUMNS = (
    "id, task_id, attempt, agent_type, status, phase, reason, error, clean, spawned_at, started_at,"
    " completed_at, metadata"
)
TASK_COLUMNS = (
    "t.id, t.status, t.attempt, t.assigned_agent_id, t.submitted_at, t.completed_at, t.reason, t.error,"
    " t.metadata, t.spent, e.data"
)

TITLE = 200
DESCRIPTION = 2000


T = TypeVar("T")


@dataclass(slots=True)
class Touched(Generic[T]):
    """The latest version of an agent or task in a group of commits, and what only its events told."""

    value: T
    last_seq: int
    #: The event that made it (an agent's spawning, a task's submission), where it is in this group.
    first_seq: int | None = None
    #: What it was before this group.
    before: T | None = None
    sandbox: str | None = None
    exit_code: int | None = None


def _at(moment: datetime | None) -> str | None:
    return None if moment is None else iso_cached(moment)


def _word(word: StrEnum | None) -> str | None:
    return None if word is None else str(word)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def plain(text: str | None) -> str | None:
    """Return the text without NUL, which SQLite's functions take for its end."""
    return text.replace("\0", "\ufffd") if text else text


def _unplain(text: str | None) -> str | None:
    return text if text and "\0" in text else None


def changed_little(touched: Touched[Agent]) -> bool:
    """Return whether only what no index is over has changed, which is cheaper to write."""
    before, agent = touched.before, touched.value
    return before is not None and before.status is agent.status and before.clean == agent.clean


def little_row(touched: Touched[Agent]) -> list[Any]:
    """Return what of an agent changes within one status, in the order of `group.AGENTS_CHANGED`."""
    agent = touched.value
    return [
        agent.id,
        touched.sandbox,
        touched.exit_code,
        _metadata(agent),
        _word(agent.phase),
        touched.last_seq,
    ]


def agent_row(touched: Touched[Agent]) -> list[Any]:
    """Return the agent's row in the order of `group.AGENTS`."""
    agent = touched.value
    return [
        agent.id,
        agent.task_id,
        touched.sandbox,
        str(agent.status),
        str(agent.role),
        _at(agent.started_at),
        _at(agent.completed_at),
        touched.exit_code,
        plain(agent.error),
        _metadata(agent),
        agent.attempt,
        _word(agent.phase),
        _word(agent.reason),
        int(agent.clean),
        _at(agent.spawned_at),
        touched.first_seq,
        touched.last_seq,
    ]


def _metadata(agent: Agent) -> dict[str, Any]:
    push, usage = agent.push, agent.usage
    return {
        "runtime": agent.runtime,
        "priority": agent.priority,
        "queuedSeq": agent.queued_seq,
        "notBefore": _at(agent.not_before),
        **({"waitsFor": list(agent.waits_for)} if agent.waits_for else {}),
        "retriesLeft": agent.retries_left,
        "crashes": agent.crashes,
        "resumed": agent.resumed,
        "turn": agent.turn,
        "answered": agent.answered,
        "rejected": agent.rejected,
        "conflicts": agent.conflicts,
        "furthest": agent.furthest,
        "base": agent.base,
        "branch": agent.branch,
        "commit": agent.commit,
        "pullRequest": agent.pull_request,
        "nextAgentId": agent.next_agent_id,
        "push": push and [push.remote, push.ref, push.old, push.new],
        "pushed": agent.pushed,
        "yolo": agent.yolo,
        "usage": figures(usage),
        "parked": agent.parked and agent.parked.model_dump(mode="json"),
        **words(agent),
        "error": _unplain(agent.error),
        "result": agent.result,
    }


def read_agent(row: tuple[Any, ...], verdicts: tuple[Verdict, ...]) -> Agent:
    """Return the agent of a row of `AGENT_COLUMNS`."""
    (
        agent_id, task_id, attempt, role, status, phase, reason, error, clean, spawned_at, started_at,
        completed_at, metadata,
    ) = row  # fmt: skip
    rest = json.loads(metadata)
    push, usage = rest["push"], rest["usage"]
    return Agent(
        id=AgentId(agent_id),
        task_id=TaskId(task_id),
        attempt=attempt,
        role=Role(role),
        runtime=rest["runtime"],
        priority=rest["priority"],
        spawned_at=datetime.fromisoformat(spawned_at),
        status=AgentStatus(status),
        phase=phase and Phase(phase),
        queued_seq=rest["queuedSeq"],
        not_before=_time(rest["notBefore"]),
        waits_for=tuple(rest.get("waitsFor", ())),
        retries_left=rest["retriesLeft"],
        crashes=rest["crashes"],
        resumed=rest.get("resumed", False),  # older rows have none of these
        turn=rest.get("turn", 0),
        answered=rest.get("answered", rest.get("turn", 0)),
        rejected=rest.get("rejected", 0),
        conflicts=rest.get("conflicts", 0),
        furthest=rest.get("furthest", 0),
        started_at=_time(started_at),
        completed_at=_time(completed_at),
        reason=reason and Reason(reason),
        error=error if rest["error"] is None else rest["error"],
        base=rest["base"],
        branch=rest["branch"],
        commit=rest["commit"],
        pull_request=rest["pullRequest"],
        next_agent_id=rest["nextAgentId"],
        push=push and PushIntent(remote=push[0], ref=push[1], old=push[2], new=push[3]),
        pushed=rest.get("pushed", False),
        usage=read_figures(usage),
        parked=Parked.model_validate(parked, strict=False) if (parked := rest.get("parked")) else None,
        verdicts=verdicts,
        yolo=rest.get("yolo", False),
        **read_words(rest),
        result=rest.get("result"),
        clean=bool(clean),
    )


def task_row(touched: Touched[Task]) -> list[Any]:
    """Return the task's row in the order of `group.TASKS`."""
    task, context = touched.value, touched.value.spec.context
    title = " ".join(context.work_items) or context.instructions.strip().partition("\n")[0] or task.id
    return [
        task.id,
        title[:TITLE],
        None if touched.first_seq is None else context.instructions[:DESCRIPTION],
        str(task.status),
        plain(context.repository),
        dump([context.repository]),
        task.agent_id,
        task.attempt,
        task.spec.priority,
        _at(task.submitted_at),
        _at(task.completed_at),
        _word(task.reason),
        plain(task.error),
        (unplain := _unplain(task.error)) and dump(unplain),
        None if task.spent == NO_USAGE else dump(figures(task.spent)),
        touched.first_seq,
        touched.last_seq,
    ]


def queue_status(agent: Agent | None) -> str | None:
    """Return the word of the queue for the agent's state, or None before it was queued."""
    if agent is None or agent.queued_seq == 0:
        return None
    if agent.status.ended:
        return str(agent.status)
    return "queued" if agent.phase is Phase.QUEUED else "processing"


def queue_changed(before: Agent | None, agent: Agent) -> bool:
    """Return whether the agent has a row in the queue, and another one than before."""
    now, earlier = queue_status(agent), queue_status(before)
    return now is not None and (now != earlier or before is None or before.not_before != agent.not_before)


def queue_row(agent: Agent) -> list[Any]:
    """Return the agent's row in the order of `group.QUEUE`."""
    return [
        agent.queued_seq,
        agent.task_id,
        queue_status(agent),
        _at(agent.spawned_at),
        _at(agent.completed_at),
        agent.id,
        agent.priority,
        _at(agent.not_before),
        agent.queued_seq,
    ]


def read_task(row: tuple[Any, ...], spec: Any) -> Task:  # noqa: ANN401 - the parsed specification
    """Return the task of a row of `TASK_COLUMNS`, with its specification."""
    task_id, status, attempt, agent_id, submitted_at, completed_at, reason, error, exact, spent = row[:10]
    return Task(
        id=TaskId(task_id),
        spec=spec,
        status=TaskStatus(status),
        submitted_at=datetime.fromisoformat(submitted_at),
        attempt=attempt,
        agent_id=AgentId(agent_id),
        completed_at=_time(completed_at),
        reason=reason and Reason(reason),
        error=error if exact is None else json.loads(exact),
        spent=NO_USAGE if spent is None else read_figures(json.loads(spent)),
    )
