"""Taking work in: spawn, submit, retry and requeue, with their idempotency.

The invariant: what is answered 201 is durable (J2), and one key makes one task (J10).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Literal

from pydantic import Field
from quart import Response

from orchestrator.api import problem
from orchestrator.api.agents import Limit
from orchestrator.api.idempotency import Key, replayed
from orchestrator.api.route import Call, Query, answer, validate_body
from orchestrator.api.strict_json import Json
from orchestrator.api.tasks import find_task
from orchestrator.core.answer import Spawned
from orchestrator.core.commands import SubmitTask
from orchestrator.core.events import Recorded
from orchestrator.core.model import AgentId, Reason, Task, TaskStatus
from orchestrator.core.queue_answer import Refused, Requeued
from orchestrator.core.spec import TaskSpec, Wire
from orchestrator.errors import (
    AgentUnknown,
    AlreadyEnded,
    DiskFull,
    Draining,
    Frozen,
    NotEnded,
    OrchestratorError,
    QueueFull,
    RuntimeUnknown,
    TaskActive,
    TaskUnknown,
    UrlRefused,
)
from orchestrator.journal.store import AuditEntry, Receipt

#: What any attempt to hand work over can meet.
INTAKE = (
    TaskActive,
    QueueFull,
    Frozen,
    Draining,
    UrlRefused,
    RuntimeUnknown,
    DiskFull,
    problem.KeyInFlight,
    problem.KeyReused,
)

Find = Callable[[Call], Awaitable[Task]]


class RetryBody(Query):
    """The body of a retry: nothing, or an empty object."""


class RequeueFilter(Wire):
    """Which of the tasks that failed are queued once more: at most `limit`, the newest of them."""

    status: Literal["failed", "cancelled"] = "failed"
    reason: Annotated[Reason, Field(strict=False)] | None = None
    repository: Annotated[str, Field(max_length=2000)] | None = None
    limit: Limit = 100


async def spawn(call: Call) -> Response:
    """Take a task in and answer with its first agent."""
    return await _take(call, "agent.spawn", "spawning")


async def submit(call: Call) -> Response:
    """Take a task in and answer with its place in the line."""
    return await _take(call, "task.submit", "pending")


async def _take(call: Call, action: str, status: str) -> Response:
    call.query(Query)
    body = call.json()
    spec = validate_body(TaskSpec, body)
    with call.keys.hold(call, body) as key:
        repeated = await call.keys.replay(call, key)
        if repeated is not None:
            return replayed(repeated, HTTPStatus.CREATED)
        return await _submit(call, spec, key, action, status)


async def retry(call: Call) -> Response:
    """Give an ended agent's task to a new agent, with the same role and context."""
    return await _again(call, _of_agent, "agent.retry", "spawning")


async def requeue(call: Call) -> Response:
    """Queue a task that failed or was cancelled once more, as it was asked for."""
    return await _again(call, _dead_letter, "task.requeue", "pending")


async def add(call: Call) -> Response:
    """Queue a known task that has no live attempt, however it ended."""
    return await _again(call, find_task, "queue.add", "pending")


async def _again(call: Call, find: Find, action: str, status: str) -> Response:
    """Make a new attempt at the task that is found."""
    call.query(Query)
    body: Json = call.json() if call.content else {}
    validate_body(RetryBody, body)
    with call.keys.hold(call, body) as key:
        repeated = await call.keys.replay(call, key)
        if repeated is not None:
            return replayed(repeated, HTTPStatus.CREATED)
        task = await find(call)
        return await _submit(call, task.spec, key, action, status)


async def _of_agent(call: Call) -> Task:
    store, agent_id = call.services.store, call.variables["agentId"]
    agent = await store.find_agent(agent_id)
    if agent is None:
        raise AgentUnknown(f"there is no agent {agent_id[:128]}")
    if agent.live:
        raise NotEnded(f"agent {agent.id} is {agent.status}; kill it first, or wait for its end")
    task = await store.find_task(agent.task_id)
    if task is None:
        raise TaskUnknown(f"there is no task {agent.task_id}")
    return task


async def _dead_letter(call: Call) -> Task:
    task = await find_task(call)
    if task.status is TaskStatus.COMPLETED:
        raise AlreadyEnded(f"task {task.id} is completed; hand it over again to have it done anew")
    return task


async def requeue_all(call: Call) -> Response:
    """Queue those that failed and pass the filter once more, the oldest first."""
    call.query(Query)
    asked = validate_body(RequeueFilter, call.json())
    store = call.services.store
    tasks, following = await store.list_tasks(
        status=asked.status, reason=asked.reason, repository=asked.repository, limit=asked.limit
    )
    requeued, refused = list[Spawned](), list[Refused]()
    for task in reversed(tasks):
        try:
            requeued.append(await _accept(call, task.spec, None, "task.requeue", "pending"))
        except OrchestratorError as error:
            if error.retryable and not requeued:
                raise
            refused.append(Refused(task_id=task.id, code=error.code, detail=problem.detail_of(error)))
            if error.retryable:
                break
    return answer(Requeued(requeued=tuple(requeued), refused=tuple(refused), more=following is not None))


async def _submit(call: Call, spec: TaskSpec, key: Key | None, action: str, status: str) -> Response:
    return answer(await _accept(call, spec, key, action, status), HTTPStatus.CREATED)


async def _accept(call: Call, spec: TaskSpec, key: Key | None, action: str, status: str) -> Spawned:
    services, store = call.services, call.services.store
    runtime = services.check_task(spec)
    agent_id = AgentId(services.new_id())
    answered = Spawned(agent_id=agent_id, task_id=spec.task_id, status=status)

    def receipt(recorded: list[Recorded]) -> Receipt:
        nonlocal answered
        assert key is not None  # noqa: S101 - for the type checker: only given where there is a key
        answered = answered.model_copy(update={"queue_position": call.keys.promise(key, store, recorded)})
        body = answered.model_dump_json()
        return Receipt(key.name, key.fingerprint, HTTPStatus.CREATED, body, services.clock())

    earlier = await store.attempts(spec.task_id)
    await store.submit(
        SubmitTask(spec=spec, agent_id=agent_id, runtime=runtime, earlier_attempts=earlier),
        receipt=receipt if key else None,
        audit=AuditEntry(call.principal.name, action, spec.task_id, "accepted", agent_id),
    )
    if key is None:
        answered = answered.model_copy(update={"queue_position": store.queue_position(agent_id)})
    return answered
