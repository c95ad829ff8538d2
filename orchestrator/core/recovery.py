"""What makes registry and reality agree: the state and what was found on the host, turned into remedies.

Pure: looking at the host and carrying the remedies out is `supervise.reaper`'s, after a crash and every
minute. A directory belongs to the agent that its name says, for as long as that agent is in the state and may
hold one: while it is active, while it waits to go on, and after its end until it was cleaned up after. All
others are reaped. The order of the remedies is the order to carry them out in.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.core.model import Agent, AgentId, AgentStatus, PushIntent, State


@dataclass(frozen=True, slots=True)
class Reap:
    """Destroy a directory that nobody owns: whatever wrote into it is dead."""

    name: str


@dataclass(frozen=True, slots=True)
class Complete:
    """Complete the agent: it is journaled that its push arrived."""

    agent_id: AgentId
    push: PushIntent


@dataclass(frozen=True, slots=True)
class Resume:
    """Put the agent back into the queue, as the same agent, or end it where that was tried too often.

    Where it had begun to push, its next run first asks the remote whether that arrived; no start does.
    """

    agent_id: AgentId


@dataclass(frozen=True, slots=True)
class FinishCleanup:
    """Remove what an ended agent still holds, and journal that it is gone."""

    agent_id: AgentId
    #: Whether there may be work in it that nobody has kept yet.
    salvage: bool = False


Remedy = Reap | Complete | Resume | FinishCleanup


def directory_of(agent_id: str, task_id: str) -> str:
    """Return the name of an agent's directories; an overlay's options are separated by colons."""
    return f"agent-{agent_id}-{task_id}".replace(":", "_")


def may_hold(agent: Agent) -> bool:
    """Return whether the agent may hold a worktree on the host."""
    return agent.active or agent.resumed or not agent.live


def remedies(state: State, directories: Collection[str], running: Collection[AgentId] = ()) -> list[Remedy]:
    """Return what makes J7 and J8 hold again.

    `directories` are the names found on the host; of the agents `running` here the run itself takes care.
    """
    agents = sorted(state.agents.values(), key=lambda agent: (agent.queued_seq, agent.id))
    owners = {directory_of(agent.id, agent.task_id): agent for agent in agents if may_hold(agent)}
    plan: list[Remedy] = [Reap(name) for name in sorted(set(directories) - owners.keys())]
    for agent in agents:
        if agent.id in running:
            continue
        if agent.active and agent.push is not None and agent.pushed:
            plan.append(Complete(agent.id, agent.push))
        elif agent.active:
            plan.append(Resume(agent.id))
        elif not agent.live:
            held = directory_of(agent.id, agent.task_id) in directories
            plan.append(FinishCleanup(agent.id, held and agent.status is not AgentStatus.COMPLETED))
    return plan
