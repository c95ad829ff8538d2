"""The state: tasks, their agents, and the operator's switches, as frozen values in persistent maps.

`evolve` returns a new `State` that shares all but the changed entry with the old one, so a reader keeps a
consistent view for as long as it holds a reference, and the store can keep one state per commit. Ended work
leaves the state once its resources are gone (`machine.prune`); history is in the tables, so the state is
bounded by what is live.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType, TypeVar

from immutables import Map

from orchestrator.core.review import Reviewed
from orchestrator.core.spec import Role, TaskSpec, Wire
from orchestrator.core.usage import NO_SPEND, NO_USAGE, Spend, Usage
from orchestrator.core.words import Concern, Message, Parked, Step

__all__ = [
    "NO_SPEND",
    "NO_USAGE",
    "Agent",
    "AgentId",
    "AgentStatus",
    "Control",
    "Parked",
    "Phase",
    "PushIntent",
    "Reason",
    "Spend",
    "State",
    "Task",
    "TaskId",
    "TaskStatus",
    "Usage",
    "Verdict",
    "changed",
]

TaskId = NewType("TaskId", str)
AgentId = NewType("AgentId", str)
V = TypeVar("V", "Agent", "State")


def changed(value: V, **changes: Any) -> V:  # noqa: ANN401 - fields of the value
    """Return a copy with other values in the given fields, as `replace` does in five times the time.

    Every step of every agent copies an agent and the state: this is most of what a fold costs.
    """
    copy: V = object.__new__(type(value))
    fields = copy.__dict__
    fields.update(value.__dict__, **changes)
    if len(fields) != len(value.__dict__):
        raise TypeError(f"{type(value).__name__} has no such fields: {sorted(changes)}")
    return copy


class AgentStatus(StrEnum):
    """How far an agent has come; the last three are final."""

    SPAWNING = "spawning"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    KILLED = "killed"

    @property
    def ended(self) -> bool:
        """Whether this status is final."""
        return self in _ENDED_AGENT


class TaskStatus(StrEnum):
    """How far a task has come; the last three are final."""

    PENDING = "pending"
    ASSIGNED = "assigned"
    EXECUTING = "executing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether this status is final."""
        return self in _ENDED_TASK


_ENDED_AGENT = frozenset({AgentStatus.COMPLETED, AgentStatus.FAILED, AgentStatus.KILLED})
_ENDED_TASK = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class Phase(StrEnum):
    """What a live agent is doing; finer than its status."""

    QUEUED = "queued"
    PREPARING = "preparing"
    STARTING = "starting"
    WORKING = "working"
    PARKED = "parked"
    CHECKING = "checking"
    COMMITTING = "committing"
    REVIEWING = "reviewing"
    LANDING = "landing"
    CLEANING = "cleaning"


class Reason(StrEnum):
    """Why an agent ended."""

    DONE = "done"
    NO_CHANGES = "no_changes"
    AGENT_ERROR = "agent_error"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    OOM = "oom"
    BUDGET_EXCEEDED = "budget_exceeded"
    GATE_REJECTED = "gate_rejected"
    SECRET_DETECTED = "secret_detected"  # noqa: S105 - a reason, no secret
    POLICY_VIOLATION = "policy_violation"
    CONFLICT = "conflict"
    PUSH_FAILED = "push_failed"
    REPOSITORY_ERROR = "repository_error"
    SANDBOX_ERROR = "sandbox_error"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    CRASH_LOOP = "crash_loop"
    INTERRUPTED = "interrupted"
    DEPENDENCY_FAILED = "dependency_failed"
    OPERATOR = "operator"
    KILLSWITCH = "killswitch"


class Verdict(Wire):
    """A gate's answer about one commit, with its evidence (exit code, duration, tests, tail of output)."""

    gate: str
    approved: bool
    message: str
    commit: str
    round: int = 1
    command: tuple[str, ...] = ()
    exit_code: int | None = None
    duration_ms: float = 0.0
    #: Tests that ran, and that ran on the base; the share of the code that they reached, in percent.
    tests: int | None = None
    tests_base: int | None = None
    coverage: float | None = None
    #: True where nothing that the agent could do would change a rejection.
    lasting: bool | None = None
    #: Paths that say how this gate is run and that the candidate edits, if any: the base's were used.
    protected: tuple[str, ...] | None = None
    output_tail: str = ""
    #: What the reviewer answered, where the gate is one.
    review: Reviewed | None = None


class PushIntent(Wire):
    """A push as journaled before it was tried; `old` is the lease, empty where no branch may be."""

    remote: str
    ref: str
    old: str
    new: str


@dataclass(frozen=True)
class Agent:
    """One attempt at a task."""

    id: AgentId
    task_id: TaskId
    #: 1 for the first attempt at the task; also the fencing number of its effects.
    attempt: int
    role: Role
    runtime: str
    priority: int
    spawned_at: datetime
    status: AgentStatus = AgentStatus.SPAWNING
    phase: Phase | None = Phase.QUEUED
    parked: Parked | None = None
    #: Its place in the line among equal priorities: the sequence of the event that queued it.
    queued_seq: int = 0
    #: Not to be started before this time (a retry's backoff).
    not_before: datetime | None = None
    waits_for: tuple[TaskId, ...] = ()  # tasks that were open when it was queued, and must be completed
    retries_left: int = 0  # automatic ones, after this attempt
    crashes: int = 0  # that cut it since it got further than ever before
    #: Whether a crash or a restart ever cut it: then it may hold a worktree while it waits in the queue.
    resumed: bool = False
    #: The last turn that it finished on its worktree (0: none); a prompt takes one turn or more.
    turn: int = 0
    #: The last prompt that it answered on its worktree, and the last whose candidate was rejected (0: none).
    answered: int = 0
    rejected: int = 0
    conflicts: int = 0  # rejections because its branch had moved on
    #: The highest turn that it ever finished, on any worktree.
    furthest: int = 0
    started_at: datetime | None = None
    completed_at: datetime | None = None
    reason: Reason | None = None
    error: str | None = None
    #: The commit of the base branch that the work started from.
    base: str | None = None
    branch: str | None = None
    #: The commit of record, once there is one.
    commit: str | None = None
    pull_request: str | None = None
    next_agent_id: AgentId | None = None
    push: PushIntent | None = None
    #: Whether it is journaled that the push arrived.
    pushed: bool = False
    usage: Usage = NO_USAGE
    verdicts: tuple[Verdict, ...] = ()
    #: Of the lines that its candidate adds to its target, the part that agents wrote (0.0 to 1.0).
    ai_share: float | None = None
    yolo: bool = False  # its gates were skipped
    #: How many messages it was ever sent, and those that it was not told yet.
    said: int = 0
    waiting: tuple[Message, ...] = ()
    #: How far it has been seen to, and why.
    step: Step | None = None
    concern: Concern | None = None
    #: The last result that it gave on its worktree, by its role's schema (`core.result`).
    result: dict[str, Any] | None = None
    #: Whether everything that it held on the host is gone.
    clean: bool = False

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return not self.status.ended

    @property
    def active(self) -> bool:
        """Whether it holds a slot: it has left the queue and has not ended."""
        return self.live and self.phase is not Phase.QUEUED


@dataclass(frozen=True, slots=True)
class Task:
    """The work asked for; it lives through any number of attempts."""

    id: TaskId
    spec: TaskSpec
    status: TaskStatus
    submitted_at: datetime
    #: The number of its latest attempt, and that attempt's agent.
    attempt: int
    agent_id: AgentId
    completed_at: datetime | None = None
    reason: Reason | None = None
    error: str | None = None
    #: What all its attempts have spent since it was submitted.
    spent: Usage = NO_USAGE


@dataclass(frozen=True, slots=True)
class Control:
    """The operator's switches and the ceilings in force."""

    paused: bool = False
    frozen: bool = False
    draining: bool = False
    stop_on_failure: bool = False
    #: Agents taken from the queue at once (`max_concurrent`), and live agents at all.
    queue_concurrency: int = 1
    #: What the settings said of the former at the last start: another value there is a new decision.
    configured: int | None = None
    cleared: datetime | None = None  # what ended up to then is no more listed in the queue
    max_agents: int = 2
    max_queued: int = 100_000
    #: What the host has too little of to start another agent (`core.watermark`).
    short: frozenset[str] = frozenset()

    @property
    def slots(self) -> int:
        """How many agents may be active at once."""
        return min(self.queue_concurrency, self.max_agents)


@dataclass(frozen=True)
class State:
    """Everything that decisions are made from."""

    tasks: Map[TaskId, Task] = field(default_factory=Map)
    agents: Map[AgentId, Agent] = field(default_factory=Map)
    control: Control = Control()
    #: How many agents wait in the queue, and how many hold a slot: kept, so that decisions are O(1).
    queued: int = 0
    active: int = 0
    #: Of those who hold a slot, how many a crash has cut of late, and how many are on their last chance.
    cut: int = 0
    last_chance: int = 0
    spend: Spend = NO_SPEND
    #: The sequence of the last event folded in.
    seq: int = 0
