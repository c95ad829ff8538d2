"""The state with another agent, task or sum in it. Called by the folds."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core import events as e
from orchestrator.core.model import Agent, State, Task, Usage, changed


def put_agent(state: State, agent: Agent) -> State:
    """Store the agent and keep the two counts that decisions are made from."""
    before = state.agents.get(agent.id)
    if before is not None and before.status is agent.status and before.phase is agent.phase:
        return changed(state, agents=state.agents.set(agent.id, agent))
    was_queued, was_active = (before.live and not before.active, before.active) if before else (False, False)
    return changed(
        state,
        agents=state.agents.set(agent.id, agent),
        queued=state.queued + (agent.live and not agent.active) - was_queued,
        active=state.active + agent.active - was_active,
    )


def put_task(state: State, task: Task) -> State:
    """Store the task."""
    return changed(state, tasks=state.tasks.set(task.id, task))


def count_spent(state: State, recorded: e.Recorded, agent: Agent, usage: Usage) -> State:
    """Count what the agent spent for its task, and for the day."""
    task = state.tasks[agent.task_id]
    state = changed(state, spend=state.spend.plus(usage, recorded.time.date()))
    return put_task(state, replace(task, spent=task.spent.plus(usage)))
