"""Taking work in: spawn, submit and retry, with their idempotency.

The invariant: what is answered 201 is durable (J2), and one key makes one task (J10).
"""

from __future__ import annotations

from http import HTTPStatus

from quart import Response

from orchestrator.api.idempotency import Key, replayed
from orchestrator.api.route import Call, Query, answer, validate_body
from orchestrator.api.strict_json import Json
from orchestrator.core.answer import Spawned
from orchestrator.core.commands import SubmitTask
from orchestrator.core.events import Recorded
from orchestrator.core.model import AgentId
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import AgentUnknown, NotEnded, TaskUnknown
from orchestrator.journal.store import AuditEntry, Receipt


class RetryBody(Query):
    """The body of a retry: nothing, or an empty object."""


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
    call.query(Query)
    body: Json = call.json() if call.content else {}
    validate_body(RetryBody, body)
    store = call.services.store
    with call.keys.hold(call, body) as key:
        repeated = await call.keys.replay(call, key)
        if repeated is not None:
            return replayed(repeated, HTTPStatus.CREATED)
        agent_id = call.variables["agentId"]
        agent = await store.find_agent(agent_id)
        if agent is None:
            raise AgentUnknown(f"there is no agent {agent_id[:128]}")
        if agent.live:
            raise NotEnded(f"agent {agent.id} is {agent.status}; kill it first, or wait for its end")
        task = await store.find_task(agent.task_id)
        if task is None:
            raise TaskUnknown(f"there is no task {agent.task_id}")
        return await _submit(call, task.spec, key, "agent.retry", "spawning")


async def _submit(call: Call, spec: TaskSpec, key: Key | None, action: str, status: str) -> Response:
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
    return answer(answered, HTTPStatus.CREATED)
