"""What becomes of a candidate: the policy, the commit of record, the search for secrets, the gates.

The invariant: nothing is approved that did not pass every stage before, in this order, and whoever comes to
a stage has passed those before it. Called by `run`, which tells the agent what was wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from orchestrator.core import events as e
from orchestrator.core.model import Phase as Doing
from orchestrator.core.model import Reason, Verdict
from orchestrator.core.radar import MAX_FILES
from orchestrator.core.share import Share
from orchestrator.core.text import escaped
from orchestrator.errors import RepositoryError
from orchestrator.gates.base import AI_REVIEW, Exhibit, Phase, Plan
from orchestrator.gates.protected import RULE, protected
from orchestrator.journal.store import AuditEntry
from orchestrator.repo.quarantine import Sealed
from orchestrator.repo.share import count_share
from orchestrator.repo.worktree import Worktree
from orchestrator.secrets.held import values_of_task
from orchestrator.secrets.scan import Extent
from orchestrator.supervise.consulting import consult, question_of
from orchestrator.supervise.ending import RunFailed, patient
from orchestrator.supervise.exhibiting import base_of, show
from orchestrator.supervise.gear import Run, limits_for
from orchestrator.supervise.message import SKIPPED
from orchestrator.supervise.radar import scan
from orchestrator.supervise.recording import find_violations, seal

GATE_S = 900.0
#: Violations of the policy that are told to the agent and journaled, of each round.
MAX_VIOLATIONS = 20
MAX_SHOWN_PATH = 300  # characters
_AS_BASE = "the gates are run as the base commit has them"
#: The rule of a change that could not be looked through, and so may not leave.
UNSEARCHED = "unsearched"
#: Characters of the name of a file by which overlaps are known.
MAX_NAME = 1024


async def judge(
    run: Run, worktree: Worktree, candidate: str | None, number: int
) -> tuple[Sealed | None, Reason, list[str]]:
    """Seal and judge a candidate, if any; return the sealed commit and, where it was rejected, why."""
    if candidate is None:
        return None, Reason.NO_CHANGES, []
    quarantine = worktree.quarantine
    violations = (await find_violations(run, quarantine, candidate))[:MAX_VIOLATIONS]
    if violations:
        facts = [
            e.PolicyViolated(**run.ids, rule=found.rule, path=found.path, detail=found.detail)
            for found in violations
        ]
        await run.record(*facts)
        complaints = [f"policy {found.rule}: {found.path}: {found.detail}" for found in violations]
        return None, Reason.POLICY_VIOLATION, complaints
    plan = await plan_gates(run, worktree)
    sealed = await seal(run, quarantine, candidate, gates=_judges_of(run, plan))
    if complaints := await _find_secrets(run, worktree, sealed):
        return None, Reason.SECRET_DETECTED, complaints
    run.progress.sealed = sealed
    changed = await quarantine.changed(sealed.commit)
    await scan(run, worktree, tuple(escaped(path)[:MAX_NAME] for path in changed[:MAX_FILES]))
    edits = protected(changed, plan.sources)
    if edits:
        await run.record(*(_edited(run, path) for path in edits[:MAX_VIOLATIONS]))
    exhibit = await _show(run, worktree, sealed, changed, number)
    verdicts = await _run_gates(run, worktree, sealed, exhibit, plan)
    # What leads a gate below the top is known to the gate alone.
    below = {path for each in verdicts for path in each.protected or ()}.difference(edits)
    if below:
        edits = (*edits, *sorted(below))
        await run.record(*(_edited(run, path) for path in sorted(below)[:MAX_VIOLATIONS]))
    complaints = [_complaint(verdict) for verdict in verdicts if not verdict.approved]
    if complaints and edits:
        complaints.append(f"your edits of these count for no gate ({_AS_BASE}): " + ", ".join(_named(edits)))
    return sealed, Reason.GATE_REJECTED, complaints


def _edited(run: Run, path: str) -> e.PolicyViolated:
    return e.PolicyViolated(**run.ids, rule=RULE, path=_named([path])[0], detail=_AS_BASE)


def _named(paths: Sequence[str]) -> list[str]:
    return [escaped(path)[:MAX_SHOWN_PATH] for path in paths[:MAX_VIOLATIONS]]


async def _find_secrets(run: Run, worktree: Worktree, sealed: Sealed) -> list[str]:
    """Look through all that would leave; journal what was found, and return what the agent is told of it."""
    extent = Extent.HELD if run.tools.yolo else Extent.ALL
    report = await run.tools.scanner.scan(
        worktree.quarantine.open_objects,
        base=worktree.base.commit,
        tip=sealed.commit,
        extent=extent,
        own=values_of_task(run.spec.options.env),
    )
    shown = report.findings[:MAX_VIOLATIONS]
    facts = [
        e.SecretDetected(**run.ids, rule=found.rule, path=found.path, line=found.line, hmac=found.hmac)
        for found in shown
    ]
    complaints = [f"secret {found.rule}: {found.place}" for found in shown]
    if report.trouble:
        facts.append(e.SecretDetected(**run.ids, rule=UNSEARCHED, path="", detail=report.trouble))
        complaints.append(f"secret {UNSEARCHED}: {report.trouble}")
    if facts:
        await run.record(*facts)
        complaints.append(
            "nothing that looks like a secret may leave: take the value out of the files, names and messages;"
            " encoding it, splitting it or allowing it in a scanner's configuration does not help"
        )
    return complaints


def _complaint(verdict: Verdict) -> str:
    tail = f"\n{verdict.output_tail}" if verdict.output_tail else ""
    return f"gate {verdict.gate}: {verdict.message}{tail}"


async def plan_gates(run: Run, worktree: Worktree) -> Plan:
    """Return the gates of the task on its base; raise `RunFailed` where no candidate could pass them."""
    if run.tools.yolo:
        return Plan(())
    if lacking := await run.tools.judges.lacking(run.spec.gates or ()):
        why = "the coordinator does not have the gate"
        raise RunFailed(Reason.GATE_REJECTED, "; ".join(f"{why} {name}" for name in lacking))
    asked = run.tools.gates.plan(run.spec.profile, run.spec.gates)
    # A coordinator may have what this host lacks; who asks for nothing need not wait for the base's answer.
    if not asked.run or not await run.tools.judges.go_by_base():
        return asked
    quarantine, plans = worktree.quarantine, run.progress.plans
    if (known := plans.get(quarantine.base)) is not None:
        return known
    plan = await run.tools.gates.plan_on(run.spec.profile, run.spec.gates, await base_of(quarantine))
    if plan.refused:
        why = "; ".join(f"gate {gate.gate}: {gate.reason}" for gate in plan.refused)
        raise RunFailed(Reason.GATE_REJECTED, f"no work on this base could pass: {why}")
    plans[quarantine.base] = plan
    return plan


async def _show(
    run: Run, worktree: Worktree, sealed: Sealed, changed: tuple[str, ...], number: int
) -> Exhibit:
    """Return the candidate as the gates are shown it."""
    await run.tree.wait_thawed()
    share = await _share(run, worktree, sealed)
    run.progress.ai_share = share.value if isinstance(share, Share) else None
    return show(
        worktree.quarantine,
        sealed.commit,
        changed,
        spec=run.spec,
        agent_id=run.agent.id,
        backend=run.backend,
        checkouts=run.tree,
        limits=limits_for(run.spec, run.tools.default_limits),
        output=run.output,
        number=number,
        share=share,
        ask=partial(run.meter.ask, prompt=None) if run.meter else None,
    )


async def _run_gates(
    run: Run, worktree: Worktree, sealed: Sealed, exhibit: Exhibit, plan: Plan
) -> tuple[Verdict, ...]:
    """Return the verdicts of the first phase that rejects, or of all."""
    if run.tools.yolo:
        await _own_up(run, sealed)
        return ()
    judges = run.tools.judges
    if plan.skipped and exhibit.round == 1 and judges.local:
        skipped = (e.GateSkipped(**run.ids, gate=gate.gate, message=gate.reason) for gate in plan.skipped)
        await run.record(*skipped)

    async def judged(verdict: Verdict) -> None:
        event = e.GatePassed if verdict.approved else e.GateRejected
        await run.record(event(**run.ids, verdict=verdict, ai_share=run.progress.ai_share))

    verdicts: tuple[Verdict, ...] = ()
    for phase in Phase:
        if judges.local:
            if AI_REVIEW in plan.of(phase):
                await run.record(e.AgentPhase(**run.ids, phase=Doing.REVIEWING))
            verdicts += await run.tools.gates.run(plan.of(phase), exhibit, deadline_s=GATE_S, judged=judged)
        if judges.coordinator and _asks_for_any(plan) and _approved(verdicts):
            question = question_of(run, sealed, exhibit.changed, phase)
            asked = consult(run, judges.coordinator, worktree, sealed, question, number=exhibit.round)
            verdicts += (await asked,)
        if lasting := [verdict for verdict in verdicts if verdict.lasting and not verdict.approved]:
            why = "; ".join(_complaint(verdict) for verdict in lasting)
            raise RunFailed(Reason.GATE_REJECTED, f"the agent could not change this: {why}")
        if not _approved(verdicts):
            break
    return verdicts


def _asks_for_any(plan: Plan) -> bool:
    """Return whether the task has any gate: who asks for none is judged by nobody."""
    return bool(plan.run or plan.skipped)


def _approved(verdicts: tuple[Verdict, ...]) -> bool:
    return all(verdict.approved for verdict in verdicts)


def _judges_of(run: Run, plan: Plan) -> str:
    """Return who must approve of the commit, as its message names them."""
    if run.tools.yolo:
        return SKIPPED
    names = plan.run if run.tools.judges.local else ()
    if run.tools.judges.coordinator and _asks_for_any(plan):
        names += ("coordinator",)
    return ", ".join(names) or "none"


async def _own_up(run: Run, sealed: Sealed) -> None:
    """Journal and audit that the gates are skipped: durable before the commit can go anywhere."""
    plan = run.tools.gates.plan(run.spec.profile, run.spec.gates)
    gates = (*plan.run, *(gate.gate for gate in plan.skipped))
    detail = f"commit {sealed.commit}, gates not run: {', '.join(gates) or 'none'}"
    entry = AuditEntry("YOLO_MODE", "gates.skip", run.agent.id, "skipped", detail)
    await run.tools.store.record(e.YoloUsed(**run.ids, commit=sealed.commit, gates=gates), audit=entry)


async def _share(run: Run, worktree: Worktree, sealed: Sealed) -> Share | str:
    """Return how much of what the branch would add to its target agents wrote, or why none can tell."""
    base, target = worktree.base, run.spec.options.landing.target
    if target is None or target == base.branch:
        return await count_share(worktree.quarantine, sealed, base.commit, base.commit)
    try:
        with patient():
            there = await run.tools.repositories.resolve(base.url, target)
    except RepositoryError as error:
        return error.detail
    return await count_share(worktree.quarantine, sealed, base.commit, there.commit)
