"""The state with another agent, task or sum in it. Called by the folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from orchestrator.core import events as e
from orchestrator.core.model import Agent, State, Task, Usage, changed
from orchestrator.core.policy import Standing, standing

#: The fields of the state that count agents.
COUNTS = ("queued", "active", "cut", "last_chance")


def put_agent(state: State, agent: Agent) -> State:
    """Store the agent and keep the counts that decisions are made from."""
    before = state.agents.get(agent.id)
    agents = state.agents.set(agent.id, agent)
    if before is not None and _counted(before) == _counted(agent):
        return changed(state, agents=agents)
    counts = {name: getattr(state, name) for name in COUNTS}
    for each, sign in ((agent, 1), (before, -1)):
        for name in count_in(each):
            counts[name] += sign
    return changed(state, agents=agents, **counts)


def _counted(agent: Agent) -> tuple[object, ...]:
    return agent.status, agent.phase, agent.crashes


def count_in(agent: Agent | None) -> tuple[str, ...]:
    """Return by which of the state's counts the agent is counted."""
    if agent is None or not agent.live:
        return ()
    if not agent.active:
        return ("queued",)
    stands = {Standing.CUT: ("cut",), Standing.LAST_CHANCE: ("last_chance",)}
    return ("active", *stands.get(standing(agent), ()))


def counts_of(agents: Iterable[Agent]) -> dict[str, int]:
    """Return the state's counts of these agents."""
    found = Counter(name for agent in agents for name in count_in(agent))
    return {name: found[name] for name in COUNTS}


def put_task(state: State, task: Task) -> State:
    """Store the task."""
    return changed(state, tasks=state.tasks.set(task.id, task))


def count_spent(
    state: State, recorded: e.Recorded, agent: Agent, usage: Usage, *, claimed: bool = False
) -> State:
    """Count what the agent spent for its task, and for the day unless it is only `claimed`."""
    task = state.tasks[agent.task_id]
    if not claimed:
        state = changed(state, spend=state.spend.plus(usage, recorded.time.date()))
    return put_task(state, replace(task, spent=task.spent.plus(usage)))
