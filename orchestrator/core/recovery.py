"""What to do after a crash: the last state and what was found on the host, turned into remedies.

Pure: reading the host and carrying the remedies out is `supervise.reaper`'s. The order of the remedies is
the order to carry them out in. First everything found on the host is reaped: no process outlives the
orchestrator, so no directory has a living owner, and an agent that goes on starts from a fresh one. Then
pushes are settled, and agents end or go on. An agent that ends by its remedy (its push had arrived, or it
crashed the orchestrator too often) is cleaned up after by then: whoever carries the remedy out journals
that too, so that nothing is left for a second pass.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.core.model import AgentId, AgentStatus, PushIntent, State


@dataclass(frozen=True, slots=True)
class Reap:
    """Destroy the agent's directory: whatever wrote into it is dead."""

    agent_id: str


@dataclass(frozen=True, slots=True)
class SettlePush:
    """Ask the remote whether the journaled push was done, then complete or resume the agent."""

    agent_id: AgentId
    push: PushIntent


@dataclass(frozen=True, slots=True)
class Resume:
    """Put the agent back into the queue, as the same agent, or end it where that was tried too often."""

    agent_id: AgentId


@dataclass(frozen=True, slots=True)
class FinishCleanup:
    """Record that an ended agent's resources are gone, once they are."""

    agent_id: AgentId
    #: Whether a directory of it was found: work that nobody had kept yet.
    lost: bool = False


Remedy = Reap | SettlePush | Resume | FinishCleanup


def remedies(state: State, directories: Collection[str]) -> list[Remedy]:
    """Return what makes J7 and J8 hold again; `directories` are the agents' directories found on the host."""
    plan: list[Remedy] = [Reap(name) for name in sorted(directories)]
    agents = sorted(state.agents.values(), key=lambda agent: (agent.queued_seq, agent.id))
    for agent in agents:
        if agent.active and agent.push is not None:  # in any phase: only the remote knows whether it arrived
            plan.append(SettlePush(agent.id, agent.push))
        elif agent.active:
            plan.append(Resume(agent.id))
        elif not agent.live and not agent.clean:
            lost = agent.status is not AgentStatus.COMPLETED and any(
                name.startswith(f"agent-{agent.id}-") for name in directories
            )
            plan.append(FinishCleanup(agent.id, lost))
    return plan
