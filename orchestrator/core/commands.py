"""The requests: what clients, the dispatcher and recovery ask of the state machine.

A command carries everything that deciding needs from outside (ids, chance), so that `decide` stays pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from orchestrator.core.model import AgentId, Reason, TaskId, TaskStatus
from orchestrator.core.spec import TaskSpec


@dataclass(frozen=True, slots=True)
class SubmitTask:
    """Queue a task; `agent_id` is its first agent's, `earlier_attempts` counts those of an earlier life.

    `known` has how those of its dependencies stand that have left the state. `at_once` says that somebody
    starts what gets a slot: where one is free and nobody waits, the agent gets it in the same decision.
    """

    spec: TaskSpec
    agent_id: AgentId
    runtime: str
    earlier_attempts: int = 0
    at_once: bool = False
    known: Mapping[TaskId, TaskStatus] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AssignAgent:
    """Give the agent a slot: it leaves the queue."""

    agent_id: AgentId


@dataclass(frozen=True, slots=True)
class AbandonAgent:
    """Give up an agent that waits for a task that was not completed and has ended."""

    agent_id: AgentId
    dependency: TaskId


@dataclass(frozen=True, slots=True)
class StartAgent:
    """Record that the agent's program runs."""

    agent_id: AgentId
    sandbox: str


@dataclass(frozen=True, slots=True)
class CompleteAgent:
    """Record that the agent ended well; `error` says what of its work did not count."""

    agent_id: AgentId
    reason: Reason
    commit: str | None = None
    branch: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class FailAgent:
    """Record that the agent failed; where a retry can help, `next_agent_id` takes over at `retry_at`."""

    agent_id: AgentId
    reason: Reason
    error: str
    retryable: bool
    next_agent_id: AgentId
    retry_at: datetime


@dataclass(frozen=True, slots=True)
class KillAgent:
    """Record that the agent was ended, with the proof."""

    agent_id: AgentId
    reason: Reason
    error: str | None = None
    killed_processes: int = 0
    remaining: int = 0
    elapsed_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class TellAgent:
    """Say something to a live agent."""

    agent_id: AgentId
    text: str
    sender: str | None


@dataclass(frozen=True, slots=True)
class TakeWork:
    """Take what the agent made, if anything, as final, and no further message; nothing where one waits."""

    agent_id: AgentId


@dataclass(frozen=True, slots=True)
class CancelTask:
    """End a task that still waits in the queue (a live agent is killed first)."""

    task_id: TaskId
    reason: Reason = Reason.OPERATOR


@dataclass(frozen=True, slots=True)
class ResumeAgent:
    """Put an agent that a crash or a shutdown cut back into the queue, as the same agent.

    None of its processes may be alive by then; its worktree may stay.
    """

    agent_id: AgentId
    crashed: bool
    #: Not to be started before, where what it goes on with cannot be had for the moment.
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class PauseQueue:
    """Take nothing more from the queue."""


@dataclass(frozen=True, slots=True)
class ResumeQueue:
    """Take work from the queue again."""


@dataclass(frozen=True, slots=True)
class ChangeQueueSettings:
    """Change what is given."""

    max_concurrent: int | None = None
    stop_on_failure: bool | None = None


@dataclass(frozen=True, slots=True)
class ClearQueue:
    """List no more what has ended by now."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """Let every process tree stand still and admit nothing."""


@dataclass(frozen=True, slots=True)
class Thaw:
    """Let what is frozen go on; where nothing is, end a drain."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Admit nothing more."""


Command = (
    SubmitTask
    | AssignAgent
    | AbandonAgent
    | StartAgent
    | CompleteAgent
    | FailAgent
    | KillAgent
    | TellAgent
    | TakeWork
    | CancelTask
    | ResumeAgent
    | PauseQueue
    | ResumeQueue
    | ChangeQueueSettings
    | ClearQueue
    | Freeze
    | Thaw
    | Drain
)
