"""Asks the coordinator about a candidate, and says what it means that no sound answer came.

The invariant: without an answer that approves, nothing goes on; and an agent pays for no fault but its own.
An opinion is a verdict like any gate's, and a rejection the agent's next turn. A coordinator that is away, or
makes no sense, is none of its doing: that is journaled as a rejection, no turn is spent on it, and the agent
fails with its work kept, or waits for as long as the operator's patience says. Called by `judging`.
"""

from __future__ import annotations

import base64

from orchestrator.core import events as e
from orchestrator.core.model import Reason, Verdict
from orchestrator.core.quality import (
    MAX_BUNDLE_BYTES,
    MAX_FILE_CHARACTERS,
    MAX_FILES,
    CoordinatorAnswerBad,
    CoordinatorUnavailable,
    DiffSummary,
    QualityCheck,
    refused,
    verdict_of,
)
from orchestrator.core.text import escaped
from orchestrator.gates.base import Phase
from orchestrator.gates.coordinator import Coordinator
from orchestrator.repo.candidate import bundle
from orchestrator.repo.quarantine import Sealed
from orchestrator.repo.worktree import Worktree
from orchestrator.supervise.ending import RunFailed, RunPostponed
from orchestrator.supervise.gear import Run

#: For one phase, with all tries: a coordinator runs the gates meanwhile.
CONSULT_S = 900.0


async def consult(
    run: Run,
    coordinator: Coordinator,
    worktree: Worktree,
    sealed: Sealed,
    question: QualityCheck,
    *,
    number: int,
) -> Verdict:
    """Return the coordinator's verdict, journaled by then; raise where it came to none."""
    clock = run.tree.clock
    began = clock.now()

    def took_ms() -> float:
        return (clock.now() - began) * 1000

    async def enrich(question: QualityCheck) -> QualityCheck:
        return await _with_candidate(question, run.spec.landing_branch, worktree, sealed)

    trouble: CoordinatorUnavailable | CoordinatorAnswerBad | None = None
    try:
        opinion = await coordinator.check(question, clock=clock, deadline_s=CONSULT_S, enrich=enrich)
        verdict = verdict_of(opinion, commit=sealed.commit, number=number, duration_ms=took_ms())
    except (CoordinatorUnavailable, CoordinatorAnswerBad) as error:
        verdict = refused(error.detail, commit=sealed.commit, number=number, duration_ms=took_ms())
        trouble = error
    event = e.GatePassed if verdict.approved else e.GateRejected
    await run.record(event(**run.ids, verdict=verdict, ai_share=run.progress.ai_share))
    if trouble is not None:
        raise _ending(trouble, run, coordinator) from trouble
    return verdict


def _ending(
    error: CoordinatorUnavailable | CoordinatorAnswerBad, run: Run, coordinator: Coordinator
) -> RunFailed | RunPostponed:
    """Return what becomes of an agent whose finished work nobody judged."""
    away = isinstance(error, CoordinatorUnavailable)
    if away and coordinator.silent_s() < run.tools.judges.patience_s:
        return RunPostponed(error.detail)
    return RunFailed(Reason.GATE_REJECTED, error.detail)


def question_of(run: Run, sealed: Sealed, changed: tuple[str, ...], phase: Phase) -> QualityCheck:
    """Return what is asked about a candidate, with the paths that it changes."""
    spec = run.spec
    summary = DiffSummary(files=sealed.files, additions=sealed.additions, deletions=sealed.deletions)
    return QualityCheck(
        task_id=run.agent.task_id,
        agent_id=run.agent.id,
        phase=phase.value,
        gate_profile=spec.profile,
        gates=spec.gates or (),
        repository=spec.context.repository,
        branch=spec.context.branch,
        commit=sealed.commit,
        files=tuple(escaped(path)[:MAX_FILE_CHARACTERS] for path in changed[:MAX_FILES]),
        diff_summary=summary,
        ai_share=run.progress.ai_share,
    )


async def _with_candidate(
    question: QualityCheck, landing: str, worktree: Worktree, sealed: Sealed
) -> QualityCheck:
    """Return the question with the commit itself, where it is not too large to be sent."""
    packed = await bundle(worktree.quarantine, sealed.commit, max_bytes=MAX_BUNDLE_BYTES)
    text = None if packed is None else base64.b64encode(packed).decode()
    return question.model_copy(
        update={"base": worktree.base.commit, "landing_branch": landing, "bundle": text}
    )
