"""Tasks that wait for others: what is refused, what is waited for, and what ends with whom it waited for.

A task may depend only on tasks that were handed over before it, so no circle can be made. Pure; called by
`decide`.
"""

from __future__ import annotations

from orchestrator import errors
from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.model import Agent, Reason, State, TaskId, TaskStatus
from orchestrator.core.standing import unheard


def open_dependencies(state: State, command: c.SubmitTask) -> tuple[TaskId, ...]:
    """Return the tasks that the new one waits for; raises `FieldRefused` for one that it never could."""
    found: list[TaskId] = []
    for number, name in enumerate(command.spec.depends_on):
        task = state.tasks.get(TaskId(name))
        known = command.known.get(TaskId(name))  # of who has left the state, so the end, or nothing is known
        status = task.status if task is not None else known if known and known.ended else None
        field = f"dependsOn.{number}"
        if status is None or name == command.spec.task_id:
            raise errors.FieldRefused(field, f"there is no task {name} from before this one")
        if status.ended and status is not TaskStatus.COMPLETED:
            raise errors.FieldRefused(field, f"task {name} is {status}: queue it once more first")
        if status is not TaskStatus.COMPLETED and TaskId(name) not in found:
            found.append(TaskId(name))
    return tuple(found)


def unmet(state: State, agent: Agent) -> TaskId | None:
    """Return a task of the state that the agent has to wait for, if there is one."""
    for name in agent.waits_for:
        task = state.tasks.get(name)
        if task is not None and task.status is not TaskStatus.COMPLETED:
            return name
    return None


def abandon(state: State, agent: Agent, dependency: TaskId) -> list[e.Event]:
    """Return the agent's end; raises `CommandRefused` where it need not end for that task."""
    task = state.tasks.get(dependency)
    ended = task is None or (task.status.ended and task.status is not TaskStatus.COMPLETED)
    if dependency not in agent.waits_for or not ended:
        raise errors.CommandRefused(f"agent {agent.id} need not be given up for task {dependency}")
    ids = {"task_id": agent.task_id, "agent_id": agent.id}
    why = f"task {dependency}, which it waited for, was not completed"
    return [
        *unheard(agent),
        e.AgentFailed(**ids, reason=Reason.DEPENDENCY_FAILED, error=why),
        e.TaskFailed(**ids, reason=Reason.DEPENDENCY_FAILED, error=why),
        e.AgentCleanup(**ids),  # it was never assigned, and holds nothing on the host
    ]
