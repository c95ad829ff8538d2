"""The last step of a run: exactly the judged commit onto its branch, once.

Invariant: the intent is journaled before the push, a lost answer is asked for, and no branch that somebody
else made is touched (J11). Called by `run`.
"""

from __future__ import annotations

from orchestrator.core import events as e
from orchestrator.core.model import Phase, PushIntent, Reason
from orchestrator.errors import PushRejected, RepositoryUnreachable
from orchestrator.repo.landing import land
from orchestrator.repo.quarantine import Quarantine, Sealed
from orchestrator.repo.worktree import Base, Worktree
from orchestrator.supervise.arrival import settle
from orchestrator.supervise.ending import RunFailed, patient
from orchestrator.supervise.gear import Run


async def deliver(run: Run, worktree: Worktree, sealed: Sealed) -> None:
    """Push exactly the judged commit, once, by lease; the intent is journaled before each try (J11)."""
    base, branch = worktree.base, run.spec.landing_branch
    await run.tree.wait_thawed()
    await run.record(
        e.CommitCreated(
            **run.ids,
            commit=sealed.commit,
            base=base.commit,
            branch=branch,
            files=sealed.files,
            additions=sealed.additions,
            deletions=sealed.deletions,
            ai_share=run.progress.ai_share,
        ),
    )
    ref = f"refs/heads/{branch}"
    with patient():
        old = await run.tools.repositories.observe(base.url, ref)
    await _refuse_foreign_branch(run, branch, old)
    push = PushIntent(remote=base.url, ref=ref, old=old or "", new=sealed.commit)
    await run.record(e.AgentPhase(**run.ids, phase=Phase.LANDING, push=push))
    await run.tree.wait_thawed()
    failure = await _try_to_land(base, worktree.quarantine, push)
    if isinstance(failure, PushRejected):
        await run.record(e.PushRejected(**run.ids, push=push, error=failure.detail[:2000]))
        raise failure
    # A lost answer is no lost push: the remote is asked before giving up.
    with patient():
        arrived = await settle(run.tools.store, run.tools.repositories, run.agent.id, told=failure is None)
        if arrived is None and failure is not None:
            raise failure


async def _try_to_land(
    base: Base, quarantine: Quarantine, push: PushIntent
) -> PushRejected | RepositoryUnreachable | None:
    try:
        await land(base, quarantine, push)
    except (PushRejected, RepositoryUnreachable) as failure:
        return failure
    return None


async def _refuse_foreign_branch(run: Run, branch: str, old: str | None) -> None:
    """Raise where the remote has the branch and no attempt at this task put it there."""
    if old is None:
        return
    attempts = await run.tools.store.agents_of(run.agent.task_id)
    # Of this agent's earlier life, too, which its new commit has replaced in the journal's state.
    ours = {run.agent.commit} | {agent.commit for agent in attempts}
    ours |= {agent.push.new for agent in attempts if agent.push}
    if old in ours:
        return
    detail = f"the remote has {branch} at {old[:12]}, which no attempt at this task pushed"
    await run.record(e.ConflictDetected(**run.ids, detail=detail))
    raise RunFailed(Reason.CONFLICT, detail + "; remove it or set options.landing.branch")
