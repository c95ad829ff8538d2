"""An agent gets its work back on the commit that its branch has moved on to.

Invariant: the agent is told by the journal before its files are moved, and is asked only when they are, and
stand on what the set-up makes there; how often is bounded, apart from its own rejections, since none of it is
its fault. Called by `run`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from orchestrator.agents.prompt import clipped
from orchestrator.core import events as e
from orchestrator.core.conflict import PREFIX
from orchestrator.core.model import Phase, Reason
from orchestrator.core.policy import MAX_CONFLICTS
from orchestrator.repo.worktree import Worktree
from orchestrator.supervise.delivery import Setback
from orchestrator.supervise.ending import RunFailed
from orchestrator.supervise.gear import Run
from orchestrator.supervise.preparing import prepare_onto
from orchestrator.supervise.resumption import Place, prompt_after

MOVE_S = 120.0


async def give_back(
    run: Run, worktree: Worktree, setback: Setback, number: int, keep: AsyncExitStack, *, task: str
) -> tuple[Run, Place]:
    """Bring the work onto its new base, and return the run that goes on there, with the prompt about it.

    Raises `RunFailed` beyond the bound, and where the set-up of that base fails: then nothing was moved.
    """
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
    there, layer = await prepare_onto(run, worktree, setback.onto, keep)
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
    await run.tree.wait_unmounted()
    limits = run.tools.default_limits
    await worktree.move(setback.onto, setback.tree, layer, limits=limits, deadline_s=MOVE_S)
    return there, Place(number + 1, prompt_after(run, task, number, told))
