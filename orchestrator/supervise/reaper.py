"""Heals what the last run left: carries the remedies of `core.recovery` out, before the API says ready.

First everything on the host that no live agent owns is destroyed, the far ends of pushes to local remotes
too; then uncertain pushes are settled by asking the remote (a push is never done twice); then cut agents
return to the queue as the same agents, or end where they crash the orchestrator again and again. Afterwards
J7 and J8 hold.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import trio

from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.model import AgentId, Reason
from orchestrator.core.recovery import FinishCleanup, Reap, Resume, SettlePush, remedies
from orchestrator.errors import RepositoryError
from orchestrator.journal.store import Store
from orchestrator.repo.repositories import Repositories
from orchestrator.supervise.arrival import settle

log = logging.getLogger(__name__)

#: How long all remotes together may take to say whether a push arrived; later, the run itself asks again.
OBSERVE_S = 10.0


@dataclass(slots=True)
class Recovered:
    """How much the last run had left."""

    resumed: int = 0
    ended: int = 0
    reaped: int = 0


async def recover(store: Store, repositories: Repositories) -> Recovered:
    """Carry out every remedy, in order, and journal the sum."""
    await repositories.sweep()
    done = Recovered()
    ends = trio.current_time() + OBSERVE_S
    for remedy in remedies(store.state, repositories.directories()):
        match remedy:
            case Reap(agent_id=name):
                await repositories.reap(name)
                done.reaped += 1
            case SettlePush(agent_id=agent_id):
                await _settle(store, repositories, agent_id, done, ends=ends)
            case Resume(agent_id=agent_id):
                await _resume(store, agent_id, done)
            case FinishCleanup(agent_id=agent_id, lost=lost):
                left = ("salvage: the orchestrator died before the work was kept",) if lost else ()
                await store.record(e.AgentCleanup(**_ids(store, agent_id), left_behind=left))
    if done != Recovered():
        log.info("recovered", extra={"resumed": done.resumed, "ended": done.ended, "reaped": done.reaped})
        await store.record(e.SystemRecovered(resumed=done.resumed, ended=done.ended, reaped=done.reaped))
    return done


def _ids(store: Store, agent_id: AgentId) -> dict[str, str]:
    return {"task_id": store.state.agents[agent_id].task_id, "agent_id": agent_id}


async def _resume(store: Store, agent_id: AgentId, done: Recovered) -> None:
    ids = _ids(store, agent_id)
    recorded = await store.submit(c.ResumeAgent(agent_id, crashed=True))
    if any(isinstance(entry.event, e.AgentFailed) for entry in recorded):
        await store.record(e.AgentCleanup(**ids))
        done.ended += 1
    else:
        done.resumed += 1


async def _settle(
    store: Store,
    repositories: Repositories,
    agent_id: AgentId,
    done: Recovered,
    *,
    ends: float,
) -> None:
    """Complete the agent where the remote has its commit; else let it go on."""
    push = None
    with trio.move_on_at(ends):
        try:
            push = await settle(store, repositories, agent_id)
        except RepositoryError as error:
            log.warning("push not settled", extra={"agent_id": agent_id, "error": error.detail})
    if push is None:
        await _resume(store, agent_id, done)
        return
    ids = _ids(store, agent_id)
    branch = push.ref.removeprefix("refs/heads/")
    await store.submit(c.CompleteAgent(agent_id, Reason.DONE, push.new, branch))
    await store.record(e.AgentCleanup(**ids))
    done.ended += 1
