"""Keeps our own copy of an agent's repository fit for use, and from being taken for the agent's fault.

Invariant: an agent that failed on a copy that is damaged has not failed: it waits until the copy was made
anew, in its own worktree, and goes on. Called by `run` before anything is built on the copy, by `finish` for
every failure, and by `salvage`.
"""

from __future__ import annotations

from orchestrator.core import events as e
from orchestrator.core.model import Reason
from orchestrator.errors import RepositoryError, UrlRefused
from orchestrator.supervise.ending import Failed, Postponed
from orchestrator.supervise.gear import Run

#: What `system.degraded` and `system.recovered` call our copies of repositories.
PART = "mirror"
#: Ends that a damaged copy may be behind.
_SUSPECT = frozenset(
    {
        Reason.AGENT_ERROR,
        Reason.GATE_REJECTED,
        Reason.POLICY_VIOLATION,
        Reason.PUSH_FAILED,
        Reason.REPOSITORY_ERROR,
        Reason.SANDBOX_ERROR,  # it shows the copy's objects
    }
)
#: Of these, what is mostly neither the agent's fault nor the remote's, where it cannot pass.
_STRONGLY = frozenset({Reason.POLICY_VIOLATION, Reason.REPOSITORY_ERROR})


async def mend(run: Run) -> None:
    """Make the copy anew where it was found damaged; raises `RepositoryError` where that cannot be done."""
    repositories, context = run.tools.repositories, run.spec.context
    base = _base(run)
    try:
        why = repositories.damage(context.repository)
        if why is None and base is not None:
            why = await repositories.examine_base(context.repository, base)
    except UrlRefused:  # it is not there now, or the operator allows it no more: whoever needs it is told
        return
    if why is None:
        return
    if await repositories.renew(context.repository, context.branch, [base] if base else []):
        detail = f"our copy of {context.repository} was damaged ({why}), and has been made anew from there"
        await run.record(e.SystemDegraded(part=PART, detail=detail), e.SystemRecovered(part=PART))


async def blame(run: Run, failed: Failed) -> Postponed | None:
    """Return what a failure is instead where the copy is to blame for it, else None."""
    if failed.reason not in _SUSPECT:
        return None
    try:
        why = await find_damage(run, thorough=failed.reason in _STRONGLY and not failed.retryable)
    except (RepositoryError, OSError):  # not allowed any more, not there now, or it cannot be looked at
        return None
    if why is None:
        return None
    told = f"our copy of the repository is damaged ({why}), so this does not count: {failed.error}"
    await run.output("system", told)
    return Postponed(told, failed)


async def find_damage(run: Run, *, thorough: bool) -> str | None:
    """Return what is wrong with the copy that the agent stands on; it is made anew at the next `mend`."""
    repositories, url = run.tools.repositories, run.spec.context.repository
    base = _base(run)
    if base is None:
        return repositories.damage(url)
    return await repositories.examine(url, base, thorough=thorough)


def _base(run: Run) -> str | None:
    if (worktree := run.progress.worktree) is not None:
        return worktree.base.commit
    agent = run.tools.store.state.agents.get(run.agent.id, run.agent)
    return agent.base
