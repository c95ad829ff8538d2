"""Whether an agent's journaled push has arrived: asked of the remote, and journaled once.

Invariant: nobody else asks or journals that, so a push is never done twice and an arrival never told twice
(J11). Called before an agent's work is begun again, after a push without an answer, at an agent's end, and
after a crash.
"""

from __future__ import annotations

from orchestrator.core import events as e
from orchestrator.core.model import AgentId, PushIntent
from orchestrator.journal.store import Store
from orchestrator.repo.repositories import Repositories


async def settle(
    store: Store, repositories: Repositories, agent_id: AgentId, *, told: bool = False
) -> PushIntent | None:
    """Return the agent's push where the remote has it, else None; an arrival is durable on return.

    `told` says that git's own answer was heard: then the remote is not asked. Raises `RepositoryError` where
    it cannot be asked.
    """
    agent = store.state.agents.get(agent_id)
    push = agent.push if agent is not None else None
    if agent is None or push is None or agent.pushed:
        return push
    if not told and not await repositories.has_arrived(push):
        return None
    await store.record(e.PushCompleted(task_id=agent.task_id, agent_id=agent_id, push=push))
    return push
