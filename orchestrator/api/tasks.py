"""What can be asked about tasks, and done to them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from quart import Response

from orchestrator.api import view
from orchestrator.api.agents import Cursor, Limit
from orchestrator.api.route import Call, Query, answer
from orchestrator.core.answer import Cancelled, TaskPage
from orchestrator.core.commands import CancelTask
from orchestrator.core.model import Reason, Task, TaskStatus
from orchestrator.errors import AgentUnknown, AlreadyEnded, CommandRefused, TaskUnknown
from orchestrator.journal.store import AuditEntry

MAX_EVENTS = 1000


class TaskFilter(Query):
    """Which tasks to list."""

    status: TaskStatus | None = None
    reason: Reason | None = None
    repository: Annotated[str, Field(max_length=2000)] | None = None
    limit: Limit = 100
    after: Cursor | None = None


async def list_tasks(call: Call) -> Response:
    """List tasks, newest first."""
    asked = call.query(TaskFilter)
    tasks, following = await call.services.store.list_tasks(
        status=asked.status,
        reason=asked.reason,
        repository=asked.repository,
        limit=asked.limit,
        after=asked.after,
    )
    return answer(TaskPage(tasks=tuple(map(view.task_summary, tasks)), next=following))


async def show(call: Call) -> Response:
    """Tell everything about a task: its specification, attempts and first 1,000 events."""
    call.query(Query)
    task = await find_task(call)
    store = call.services.store
    attempts = await store.followed(await store.agents_of(task.id))
    events = await store.events_after(0, limit=MAX_EVENTS, task_id=task.id)
    return answer(view.task_detail(task, attempts, events))


async def cancel(call: Call) -> Response:
    """Cancel a task: one that waits leaves the queue, one that runs is killed."""
    task = await _open_task(call)
    try:
        return await _take_out(call, task, "task.cancel")
    except AlreadyEnded:
        raise
    except CommandRefused:
        return await _kill(call, task)


async def remove(call: Call) -> Response:
    """Take a task that waits out of the queue: it is cancelled; one that is worked on stays."""
    return await _take_out(call, await _open_task(call), "queue.remove")


async def _open_task(call: Call) -> Task:
    call.query(Query)
    task = await find_task(call)
    if task.status.ended:
        raise AlreadyEnded(f"task {task.id} is {task.status} already")
    return task


async def _take_out(call: Call, task: Task, action: str) -> Response:
    entry = AuditEntry(call.principal.name, action, task.id, "cancelled", task.agent_id)
    try:
        await call.services.store.submit(CancelTask(task.id), audit=entry)
    except (TaskUnknown, AlreadyEnded):
        raise AlreadyEnded(f"task {task.id} has ended meanwhile") from None
    return answer(Cancelled(task_id=task.id, agent_id=task.agent_id))


async def _kill(call: Call, task: Task) -> Response:
    """Kill the agent that works on the task now: it may be a later one than the task was found with."""
    present = call.services.store.state.tasks.get(task.id, task)
    try:
        report = await call.services.kill_switch.kill(present.agent_id, actor=call.principal.name)
    except (AgentUnknown, AlreadyEnded):
        raise AlreadyEnded(f"task {task.id} has ended meanwhile") from None
    return answer(Cancelled(task_id=task.id, **view.proof(report, call.services.tier)))


async def find_task(call: Call) -> Task:
    """Return the task that the path names, or raise `TaskUnknown`."""
    task_id = call.variables["taskId"]
    task = await call.services.store.find_task(task_id)
    if task is None:
        raise TaskUnknown(f"there is no task {task_id[:128]}")
    return task
