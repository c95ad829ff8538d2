"""An agent gets its work back on the commit that its branch has moved on to.

Invariant: the agent is told by the journal before its files are moved, and is asked only when they are; how
often is bounded, apart from its own rejections, since none of it is its fault. Called by `run`.
"""

from __future__ import annotations

from orchestrator.agents.prompt import clipped
from orchestrator.core import events as e
from orchestrator.core.conflict import PREFIX
from orchestrator.core.model import Phase, Reason
from orchestrator.core.policy import MAX_CONFLICTS
from orchestrator.repo.worktree import Worktree
from orchestrator.supervise.delivery import Setback
from orchestrator.supervise.ending import RunFailed
from orchestrator.supervise.gear import Run
from orchestrator.supervise.resumption import Place, prompt_after

MOVE_S = 120.0


async def give_back(run: Run, worktree: Worktree, setback: Setback, number: int, task: str) -> Place:
    """Bring the work onto its new base, and return the prompt about it; `RunFailed` beyond the bound."""
    conflicts = run.tools.store.state.agents[run.agent.id].conflicts + 1
    told = setback.complaints
    if setback.reason is not Reason.CONFLICT:
        branch = run.spec.landing_branch
        first = (
            f"{PREFIX}{branch} has moved on to {setback.onto}; your change fits there, and is rejected there"
        )
        told = (first, *told)
    if conflicts > MAX_CONFLICTS:
        error = f"its branch moved on {conflicts} times while it worked; last: " + "; ".join(told)
        raise RunFailed(setback.reason, error, retryable=True)
    told = clipped(told)
    await run.record(
        e.AgentPhase(
            **run.ids,
            phase=Phase.WORKING,
            rejected=number,
            complaints=told,
            conflicts=conflicts,
            base=setback.onto,
        )
    )
    await worktree.move(setback.onto, setback.tree, limits=run.tools.default_limits, deadline_s=MOVE_S)
    return Place(number + 1, prompt_after(run, task, number, told))
