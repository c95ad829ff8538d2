"""The facts: every event that the journal holds, typed, with its name on the wire.

Those about tasks and agents are written here, the others beside; all are imported from here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from orchestrator.core.attention import AgentAttention, AgentMessage
from orchestrator.core.event import EVENTS, AgentEvent, Event, Recorded, TaskEvent
from orchestrator.core.judgement import (
    CommitCreated,
    ConflictDetected,
    ConflictPredicted,
    EgressAllowed,
    EgressRefused,
    GatePassed,
    GateRejected,
    GateSkipped,
    PolicyViolated,
    PushCompleted,
    PushRejected,
    SecretDetected,
    YoloUsed,
)
from orchestrator.core.model import AgentId, Phase, PushIntent, Reason, TaskId
from orchestrator.core.moment import Moment
from orchestrator.core.spec import Role, TaskSpec
from orchestrator.core.supply import BudgetExceeded, BudgetWarning, ProviderRecovered, ProviderThrottled
from orchestrator.core.switches import (
    ControlDraining,
    ControlFrozen,
    ControlThawed,
    QueuePaused,
    QueueResumed,
    QueueSettings,
    SystemDegraded,
    SystemRecovered,
    SystemStarted,
    SystemStopping,
)
from orchestrator.core.turns import AgentTurn, AgentUsage, SayingEvent, said

__all__ = [
    "EVENTS",
    "AgentAttention",
    "AgentCleanup",
    "AgentCompleted",
    "AgentEvent",
    "AgentFailed",
    "AgentKilled",
    "AgentMessage",
    "AgentParked",
    "AgentPhase",
    "AgentResumed",
    "AgentRunning",
    "AgentSpawning",
    "AgentTurn",
    "AgentUsage",
    "BudgetExceeded",
    "BudgetWarning",
    "CommitCreated",
    "ConflictDetected",
    "ConflictPredicted",
    "ControlDraining",
    "ControlFrozen",
    "ControlThawed",
    "EgressAllowed",
    "EgressRefused",
    "Event",
    "GatePassed",
    "GateRejected",
    "GateSkipped",
    "PolicyViolated",
    "ProviderRecovered",
    "ProviderThrottled",
    "PushCompleted",
    "PushRejected",
    "QueuePaused",
    "QueueResumed",
    "QueueSettings",
    "Recorded",
    "SayingEvent",
    "SecretDetected",
    "SystemDegraded",
    "SystemRecovered",
    "SystemStarted",
    "SystemStopping",
    "TaskAssigned",
    "TaskCancelled",
    "TaskCompleted",
    "TaskEvent",
    "TaskExecuting",
    "TaskFailed",
    "TaskQueued",
    "TaskRetryScheduled",
    "TaskSubmitted",
    "YoloUsed",
    "said",
]

# --- tasks


class TaskSubmitted(TaskEvent):
    """A client handed a task over; it was acknowledged once this was durable."""

    name = "task.submitted"
    spec: TaskSpec


class TaskQueued(AgentEvent):
    """The task waits for a slot."""

    name = "task.queued"
    priority: int
    #: Open tasks that must be completed first.
    waits_for: tuple[TaskId, ...] | None = None


class TaskAssigned(AgentEvent):
    """An agent took the task from the queue."""

    name = "task.assigned"


class TaskExecuting(AgentEvent):
    """The agent's program runs."""

    name = "task.executing"


class TaskCompleted(AgentEvent):
    """The task is done."""

    name = "task.completed"
    reason: Reason


class TaskFailed(AgentEvent):
    """The task failed for good."""

    name = "task.failed"
    reason: Reason
    error: str | None = None


class TaskCancelled(AgentEvent):
    """Somebody ended the task."""

    name = "task.cancelled"
    reason: Reason


class TaskRetryScheduled(AgentEvent):
    """A further attempt will start; `agent_id` is the one that failed."""

    name = "task.retry_scheduled"
    next_agent_id: AgentId
    attempt: int
    at: Moment


# --- agents


class AgentSpawning(AgentEvent):
    """A new attempt exists and waits in the queue."""

    name = "agent.spawning"
    attempt: int
    role: Role
    runtime: str
    priority: int
    retries_left: int = 0
    not_before: Moment | None = None


class AgentPhase(AgentEvent):
    """The agent went on to the next phase; an intent (sandbox, push) is journaled here before its effect.

    `starting` says which worktree it works on: one that is `kept` from an earlier life, else a new one, and
    where an earlier life had one, `detail` says why it is not used. `checking` names the prompt that was
    answered, and holds the result that the agent gave, where that fits its role's schema (`core.result`).
    `working` after a rejection names the prompt whose candidate was rejected and holds what the next prompt
    is made of; where its branch had moved on, the `base` onto which the work was brought, and how often.
    """

    name = "agent.phase"
    phase: Phase
    base: str | None = None
    branch: str | None = None
    sandbox: str | None = None
    push: PushIntent | None = None
    worktree: Literal["new", "kept"] | None = None
    detail: str | None = None
    answered: int | None = None
    rejected: int | None = None
    complaints: tuple[str, ...] | None = None
    conflicts: int | None = None
    result: dict[str, JsonValue] | None = None


class AgentRunning(AgentEvent):
    """The agent's program reached its first instruction."""

    name = "agent.running"
    sandbox: str
    runtime: str


class AgentParked(AgentEvent):
    """The agent waits for something outside (a provider's limit, say) and gave its slot no work.

    None of its time passes meanwhile. `reason` is a word of `core.trouble`, `concurrency` or `token_rate`.
    """

    name = "agent.parked"
    message: str
    until: Moment | None = None
    reason: str | None = None


class AgentResumed(AgentEvent):
    """An agent that a crash, a restart or a wait had cut goes on as the same agent.

    After a crash or a restart it goes back into the queue; where it had `waited` it is at work again.
    """

    name = "agent.resumed"
    crashes: int = 0
    waited: bool | None = None
    #: What it is at again, where that is not `working`.
    phase: Phase | None = None
    #: Where it has to wait for something that passes: not to be started before.
    not_before: Moment | None = None


class AgentCompleted(AgentEvent):
    """The agent ended well; `error` says what of its work did not count, where nothing landed."""

    name = "agent.completed"
    reason: Reason
    commit: str | None = None
    branch: str | None = None
    error: str | None = None


class AgentFailed(AgentEvent):
    """The agent ended without landing its work."""

    name = "agent.failed"
    reason: Reason
    error: str
    next_agent_id: AgentId | None = None


class AgentKilled(AgentEvent):
    """The agent was ended; `remaining` counts its processes that could still be found (0 is the proof)."""

    name = "agent.killed"
    reason: Reason
    error: str | None = None
    killed_processes: int = 0
    remaining: int = 0
    elapsed_ms: float = 0.0


class AgentCleanup(AgentEvent):
    """What the agent held on the host is gone; `salvage` is the ref that keeps its unlanded work."""

    name = "agent.cleanup"
    salvage: str | None = None
    left_behind: tuple[str, ...] = ()
