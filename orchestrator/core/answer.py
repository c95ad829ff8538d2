"""What the API answers, as typed values: made by `api`, read by `client`, and the source of openapi.json.

Names on the wire are camelCase. Lenient where a client reads: a newer version may answer with more fields.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, JsonValue, SerializerFunctionWrapHandler, model_serializer

from orchestrator.core.model import AgentStatus, Parked, Phase, Reason, TaskStatus, Usage, Verdict
from orchestrator.core.moment import Moment
from orchestrator.core.spec import Role, TaskSpec, Wire


class Answer(Wire):
    """A JSON answer."""

    model_config = ConfigDict(extra="ignore", strict=False)


class Health(Answer):
    """The process answers."""

    status: str = "healthy"
    #: Seconds since the start.
    uptime: float
    timestamp: Moment
    version: str
    yolo: bool
    frozen: bool


class Readiness(Answer):
    """Whether work can be taken in (`ready` or `not_ready`), and how each part does."""

    status: str
    checks: dict[str, str]


class Spawned(Answer):
    """A task was accepted; `queue_position` is 1 for the next in line and null once it has left the queue."""

    agent_id: str
    task_id: str
    status: str
    queue_position: int | None = None


class ResourceUse(Answer):
    """What the agent's processes use now, and which limits the host really enforces."""

    memory_bytes: int = 0
    cpu_seconds: float = 0.0
    processes: int = 0
    enforced: tuple[str, ...] = ()
    #: The limits that no kernel keeps here, but that are measured.
    watched: tuple[str, ...] = ()


class GateSummary(Answer):
    """A gate's answer without its evidence."""

    gate: str
    approved: bool
    message: str
    commit: str
    round: int = 1
    exit_code: int | None = None
    duration_ms: float = 0.0
    tests: int | None = None
    coverage: float | None = None


class _Leaving(Answer):
    """Leaves these out of the JSON where there is nothing to say."""

    @model_serializer(mode="wrap")
    def _leave_out(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        for name in ("startedAt", "completedAt", "error"):
            if fields.get(name, "") is None:
                del fields[name]
        return fields


class AgentSummary(_Leaving):
    """One attempt at a task."""

    agent_id: str
    task_id: str
    status: AgentStatus
    phase: Phase | None = None
    role: Role
    runtime: str
    priority: int
    attempt: int
    spawned_at: Moment
    started_at: Moment | None = None
    completed_at: Moment | None = None
    reason: Reason | None = None
    error: str | None = None
    usage: Usage = Usage()
    branch: str | None = None
    commit: str | None = None
    pull_request: str | None = None
    next_agent_id: str | None = None


class AgentDetail(AgentSummary):
    """Everything about one attempt at a task."""

    queue_position: int | None = None
    #: The tasks that must be completed before it can go.
    waits_for: tuple[str, ...] = ()
    resources: ResourceUse = ResourceUse()
    gates: tuple[GateSummary, ...] = ()
    #: Of the lines that its candidate adds to its target, the part that agents wrote, where that is known.
    ai_share: float | None = None
    yolo: bool = False  # whether these were skipped
    parked: Parked | None = None  # what it waits for, while its phase is `parked`
    #: What the agent says it came to, by its role's schema; null where it gave nothing that fits.
    result: dict[str, JsonValue] | None = None


class AgentPage(Answer):
    """Agents, newest first; `next` is the `after` of the next page, null on the last."""

    agents: tuple[AgentSummary, ...]
    next: str | None = None


class Killed(Answer):
    """The proof of a kill: `remaining` is 0 exactly when the agent's process tree is empty."""

    agent_id: str
    status: AgentStatus = AgentStatus.KILLED
    killed_processes: int
    remaining: int
    elapsed_ms: float
    #: What proves it: `pid-namespace`, `container` or `subreaper`, with `+cgroup` where there is one.
    tier: str | None = None


class KilledAll(Answer):
    """The proof of killing every live agent."""

    message: str
    total: int
    killed: int
    failed: int
    errors: tuple[str, ...] = ()
    remaining: int
    elapsed_ms: float
    tier: str | None = None


class ControlSwitch(Answer):
    """How the whole stands after a freeze, a thaw or a drain, and the live agents that it met."""

    frozen: bool
    draining: bool
    agents: int
    processes: int
    starting: int
    elapsed_ms: float


class Verdicts(Answer):
    """What the gates said about the agent's candidates, with the evidence, oldest first."""

    agent_id: str
    gates: tuple[Verdict, ...]
    #: See `AgentDetail`.
    ai_share: float | None = None


class LogLine(Answer):
    """One line that the agent wrote; `seq` is the cursor for `after`."""

    seq: int
    time: Moment
    stream: str
    content: str


class EventBody(Answer):
    """An event as clients see it."""

    seq: int
    id: str
    type: str
    time: Moment
    agent_id: str | None = None
    task_id: str | None = None
    data: dict[str, JsonValue]


class Gap(Answer):
    """Events `from` to `to` were not delivered on this stream because its reader fell behind."""

    model_config = ConfigDict(alias_generator=lambda name: name.removesuffix("_seq"))

    from_seq: int
    to_seq: int


class TaskSummary(_Leaving):
    """A task and its latest attempt."""

    task_id: str
    status: TaskStatus
    agent_id: str
    attempt: int
    agent_type: Role
    priority: int
    repository: str
    branch: str
    submitted_at: Moment
    completed_at: Moment | None = None
    reason: Reason | None = None
    error: str | None = None


class TaskDetail(TaskSummary):
    """A task with its specification, its attempts and its latest events, oldest first."""

    spec: TaskSpec
    attempts: tuple[AgentSummary, ...]
    events: tuple[EventBody, ...]


class TaskPage(Answer):
    """Tasks, newest first; `next` is the `after` of the next page, null on the last."""

    tasks: tuple[TaskSummary, ...]
    next: str | None = None


class Cancelled(Answer):
    """The task is cancelled; the figures are its agent's proof of a kill, all 0 for one that never ran."""

    task_id: str
    agent_id: str
    status: TaskStatus = TaskStatus.CANCELLED
    killed_processes: int = 0
    remaining: int = 0
    elapsed_ms: float = 0.0
    tier: str | None = None


class FieldTrouble(Answer):
    """What is wrong with one field; `field` is its path, such as `context.branch`."""

    field: str
    message: str


class Problem(Answer):
    """An error as RFC 9457 describes it; `code` is stable, `errors` is there on 422."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: tuple[FieldTrouble, ...] = ()
