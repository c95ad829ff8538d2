"""The last step of a run: exactly the judged commit onto its branch, once.

Invariants: the intent is journaled before the push, a lost answer is asked for (J1, J11); a branch that
others write is only ever added to, and one that somebody else made is not touched where it was not asked for
by name. What is pushed was judged as it is pushed: where the branch has moved on, the commit is brought there
and judged again, on what that base's set-up makes. The door of a branch is closed behind one agent for as
long as a look and a push take, and never while anything is prepared or judged. Called by `run`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from orchestrator.core import events as e
from orchestrator.core.conflict import complaints, summary
from orchestrator.core.lineage import foot_of
from orchestrator.core.model import Phase, PushIntent, Reason
from orchestrator.core.policy import MAX_FOLLOWED, MAX_TRIES
from orchestrator.core.protected import DEFAULT, guard_of
from orchestrator.errors import BranchMissing, LeaseLost, PushRejected, RepositoryUnreachable
from orchestrator.repo.base import Base
from orchestrator.repo.landing import is_below, land
from orchestrator.repo.merging import Brought
from orchestrator.repo.quarantine import Quarantine, Sealed
from orchestrator.repo.worktree import Worktree
from orchestrator.supervise.arrival import settle
from orchestrator.supervise.ending import RunFailed, patient
from orchestrator.supervise.gear import Run
from orchestrator.supervise.judging import judge
from orchestrator.supervise.preparing import prepare_onto


@dataclass(frozen=True, slots=True)
class Setback:
    """The branch has moved on, and the work is the agent's again: on that base, as these files."""

    reason: Reason
    complaints: tuple[str, ...]
    onto: str
    tree: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """The remote as it was seen: where the branch is, and the commit to stand on, if not there yet."""

    old: str | None
    onto: str | None


async def deliver(run: Run, worktree: Worktree, sealed: Sealed, number: int) -> Sealed | Setback | None:
    """Push a commit that was judged, or what it became on the way there; None where nothing of it is new."""
    ref = f"refs/heads/{run.spec.landing_branch}"
    await refuse_protected(run, worktree.base)
    for tried in range(MAX_TRIES):
        await run.tree.wait_thawed()
        async with run.tools.doors.open(worktree.base.url, ref):
            seen = await _look(run, worktree, sealed, follows=tried < MAX_FOLLOWED)
            if seen.onto is None:
                if await _push(run, worktree, sealed, ref, seen.old):
                    return sealed
                continue
        brought = await worktree.quarantine.bring(sealed, seen.onto)
        if brought.conflicts:
            return await _tell(run, sealed, brought)
        if brought.commit is None:
            return None
        async with AsyncExitStack() as keep:
            there, layer = await prepare_onto(run, worktree, seen.onto, keep)
            again, reason, told = await judge(there, worktree.over(seen.onto, layer), brought.commit, number)
        if again is None or told:
            return Setback(reason, tuple(told), seen.onto, brought.tree)
        sealed = again
    error = f"{run.spec.landing_branch} was moved by others {MAX_TRIES} times while this was to land there"
    raise RunFailed(Reason.CONFLICT, error, retryable=True)


async def refuse_protected(run: Run, base: Base) -> None:
    """Raise `RunFailed` where nothing lands on the branch that the task names."""
    branch, protected = run.spec.landing_branch, run.tools.protected
    default = None
    if DEFAULT in protected and run.spec.options.landing.branch is not None:
        with patient():
            default = await base.mirror.head()
    if guard := guard_of(branch, protected, default):
        what = "the remote's default branch" if guard == DEFAULT else "protected"
        error = f"{branch} is {what}: nothing lands there (PROTECTED_BRANCHES has {guard})"
        raise RunFailed(Reason.POLICY_VIOLATION, error)


async def _tell(run: Run, sealed: Sealed, brought: Brought) -> Setback:
    branch = run.spec.landing_branch
    event = e.ConflictDetected(
        **run.ids,
        detail=summary(brought.conflicts),
        branch=branch,
        base=sealed.base,
        onto=brought.onto,
        files=brought.conflicts,
    )
    await run.record(event)
    told = complaints(brought.onto, branch, brought.conflicts)
    return Setback(Reason.CONFLICT, told, brought.onto, brought.tree)


async def _look(run: Run, worktree: Worktree, sealed: Sealed, *, follows: bool) -> _Seen:
    """Return what there is to land on; raises `RunFailed` where somebody else has the branch."""
    base, branch = worktree.base, run.spec.landing_branch
    repositories = run.tools.repositories
    with patient():
        old = await repositories.observe(base.url, f"refs/heads/{branch}")
        if old is not None and await _is_joined(run, base, sealed, old):
            tip = (await repositories.resolve(base.url, branch)).commit
            return _Seen(tip, None if tip == sealed.base else tip)
        if not follows:
            return _Seen(old, None)
        try:
            tip = (await repositories.resolve(base.url, base.branch)).commit
        except BranchMissing:  # it went meanwhile
            return _Seen(old, None)
        # Also where the branch was set back: what was taken off it must not come back with the work.
        return _Seen(old, tip if tip != sealed.base else None)


async def _is_joined(run: Run, base: Base, sealed: Sealed, old: str) -> bool:
    """Return whether the branch is others' too, so that it is only added to, or else this task's own.

    Raises `RunFailed` where somebody else has it and the task has not asked for it by name.
    """
    branch = run.spec.landing_branch
    made = await _made(run)
    if run.spec.options.landing.branch is None:
        if old in made:
            return False
        detail = f"the remote has {branch} at {old[:12]}, which no attempt at this task pushed"
        await run.record(e.ConflictDetected(**run.ids, detail=detail))
        raise RunFailed(Reason.CONFLICT, detail + "; remove it or set options.landing.branch")
    if branch == base.branch or old not in made:
        return True
    tip = (await run.tools.repositories.resolve(base.url, branch)).commit
    foot = foot_of(tip, made)
    return foot is None or not await is_below(base.mirror, foot, sealed.base)


async def _made(run: Run) -> dict[str, str]:
    """Return the commits that all attempts at the task meant to push, each with the one it was made over."""
    made: dict[str, str] = {}
    seq = 0
    while page := await run.tools.store.events_after(
        seq, types=[e.CommitCreated.name], task_id=run.agent.task_id
    ):
        seq = page[-1].seq
        created = (each.event for each in page if isinstance(each.event, e.CommitCreated))
        made |= {event.commit: event.base for event in created}
    return made


async def _push(run: Run, worktree: Worktree, sealed: Sealed, ref: str, old: str | None) -> bool:
    """Push by lease, the intent journaled first; False where others were quicker."""
    base = worktree.base
    created = e.CommitCreated(
        **run.ids,
        commit=sealed.commit,
        base=sealed.base,
        branch=run.spec.landing_branch,
        files=sealed.files,
        additions=sealed.additions,
        deletions=sealed.deletions,
        ai_share=run.progress.ai_share,
    )
    push = PushIntent(remote=base.url, ref=ref, old=old or "", new=sealed.commit)
    landing = e.AgentPhase(**run.ids, phase=Phase.LANDING, base=sealed.base, push=push)
    await run.record(created, landing)
    await run.tree.wait_thawed()
    failure = await _try_to_land(base, worktree.quarantine, push)
    if isinstance(failure, PushRejected):
        await run.record(e.PushRejected(**run.ids, push=push, error=failure.detail[:2000]))
        if isinstance(failure, LeaseLost):
            return False
        raise failure
    # A lost answer is no lost push: the remote is asked before giving up.
    with patient():
        arrived = await settle(run.tools.store, run.tools.repositories, run.agent.id, told=failure is None)
        if arrived is None and failure is not None:
            raise failure
    return True


async def _try_to_land(
    base: Base, quarantine: Quarantine, push: PushIntent
) -> PushRejected | RepositoryUnreachable | None:
    try:
        await land(base, quarantine, push)
    except (PushRejected, RepositoryUnreachable) as failure:
        return failure
    return None
