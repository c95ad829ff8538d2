"""Where agents and tasks stand when an event speaks of them; what does not fit is an `IllegalTransition`.

Called by the folds, which begin with one of these, and by `decide`.
"""

from __future__ import annotations

from orchestrator.core import events as e
from orchestrator.core.model import Agent, State, Task, TaskId
from orchestrator.errors import IllegalTransition


def find_agent(state: State, event: e.AgentEvent) -> Agent:
    """Return the agent that the event names."""
    agent = state.agents.get(event.agent_id)
    if agent is None:
        raise IllegalTransition(f"{event.name}: there is no agent {event.agent_id}")
    if agent.task_id != event.task_id:
        raise IllegalTransition(f"{event.name}: agent {agent.id} is not of task {event.task_id}")
    return agent


def find_live(state: State, event: e.AgentEvent) -> Agent:
    """Return the agent, which has not ended."""
    agent = find_agent(state, event)
    if not agent.live:
        raise IllegalTransition(f"{event.name}: agent {agent.id} is {agent.status} already")
    return agent


def find_active(state: State, event: e.AgentEvent) -> Agent:
    """Return the agent, which has left the queue and not ended."""
    agent = find_live(state, event)
    if not agent.active:
        raise IllegalTransition(f"{event.name}: agent {agent.id} waits in the queue")
    return agent


def find_waiting(state: State, event: e.AgentEvent) -> Agent:
    """Return the agent, which waits in the queue."""
    agent = find_live(state, event)
    if agent.active:
        raise IllegalTransition(f"{event.name}: agent {agent.id} is {agent.phase}, not queued")
    return agent


def find_ended(state: State, event: e.AgentEvent) -> Agent:
    """Return the agent, which has ended."""
    agent = find_agent(state, event)
    if agent.live:
        raise IllegalTransition(f"{event.name}: agent {agent.id} has not ended")
    return agent


def find_task(state: State, task_id: TaskId, event: e.Event) -> Task:
    """Return the task, which has not ended."""
    task = state.tasks.get(task_id)
    if task is None:
        raise IllegalTransition(f"{event.name}: there is no task {task_id}")
    if task.status.ended:
        raise IllegalTransition(f"{event.name}: task {task_id} is {task.status} already")
    return task


def find_task_of(state: State, agent: Agent, event: e.Event) -> Task:
    """Return the agent's task, of which only the latest agent may speak."""
    task = find_task(state, agent.task_id, event)
    if task.agent_id != agent.id:
        raise IllegalTransition(f"{event.name}: task {task.id} is with agent {task.agent_id}, not {agent.id}")
    return task


def unheard(agent: Agent) -> list[e.Event]:
    """Return what those learn whose words an agent was not told before its end."""
    numbers = [message.number for message in agent.waiting if message.sender is not None]
    ids = {"task_id": agent.task_id, "agent_id": agent.id}
    return [e.AgentMessage(**ids, number=numbers[-1], delivered=False)] if numbers else []
