"""One agent, top to bottom: check out, think, judge, land.

The control flow of `carry_out` *is* the agent's state machine; the journal's own machine refuses what cannot
follow. The assignment, durable before a run begins, is the intent of all that it makes on this host (J1):
whatever that is bears the agent's id. What leaves the host, a push, has an intent of its own. The run never
journals the end: `supervisor` does, outside the cancelled scope. What must outlive a kill (the worktree, for
salvage) is opened on the stack that the caller gives.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from orchestrator.agents.base import Prompt, Session, TurnResult, Turns
from orchestrator.agents.meter import AgentMeter
from orchestrator.agents.prompt import clipped
from orchestrator.core import events as e
from orchestrator.core.ceilings import beyond_ceiling
from orchestrator.core.commands import StartAgent
from orchestrator.core.model import NO_USAGE, Phase, Reason, Verdict
from orchestrator.core.policy import MAX_ROUNDS
from orchestrator.core.spec import TaskSpec
from orchestrator.gates.base import Exhibit, plan_gates, run_gates
from orchestrator.repo.quarantine import Sealed
from orchestrator.repo.worktree import Worktree
from orchestrator.supervise.arrival import settle
from orchestrator.supervise.delivery import deliver
from orchestrator.supervise.ending import Done, RunFailed
from orchestrator.supervise.gear import Run
from orchestrator.supervise.message import commit_message
from orchestrator.supervise.resumption import (
    Place,
    find_place,
    first_place,
    open_kept,
    prompt_after,
    recall,
)
from sandbox.base import Limits

#: Deadlines of the steps that are not the agent's own thinking.
COLLECT_S = 120.0
GATE_S = 900.0
#: Violations of the policy that are told to the agent and journaled, of each round.
MAX_VIOLATIONS = 20


async def carry_out(run: Run, keep: AsyncExitStack) -> Done:
    """Carry the task to its end or raise; `keep` owns what must outlive a cancelled run."""
    tools, spec = run.tools, run.spec
    await run.tree.wait_thawed()
    if landed := await settle(tools.store, tools.repositories, run.agent.id):  # by an earlier life
        return Done(Reason.DONE, landed.new, spec.landing_branch)
    kept, why = await open_kept(run, keep)
    worktree = kept or await _open_new(run, keep, why)
    run.progress.worktree = worktree
    place = await find_place(run) if kept else first_place(run)
    runtime = tools.runtimes.find(run.agent.runtime)
    async with runtime.open(_session(run, worktree, run.agent.turn if kept else 0)) as turns:
        sealed = await _think_until_approved(run, turns, worktree, place)
    if sealed is None:
        return Done(Reason.NO_CHANGES, error=worktree.left_out)
    await deliver(run, worktree, sealed)
    return Done(Reason.DONE, sealed.commit, spec.landing_branch)


async def _open_new(run: Run, keep: AsyncExitStack, why: str | None) -> Worktree:
    """Give the agent a new worktree on its branch; `why` says why an earlier one is not used."""
    tools, spec = run.tools, run.spec
    base = await tools.repositories.resolve(spec.context.repository, spec.context.branch)
    starting = e.AgentPhase(
        **run.ids,
        phase=Phase.STARTING,
        base=base.commit,
        branch=spec.landing_branch,
        sandbox=run.tree.name,
        worktree="new",
        detail=why,
    )
    await run.tools.store.note(starting)  # durable before `agent.running`, and before any end
    worktree = await keep.enter_async_context(
        tools.repositories.open_worktree(
            base, agent_id=run.agent.id, task_id=run.agent.task_id, backend=run.tree, shared=run.shared
        )
    )
    worktree.kept = True  # for a later life, where this one is cut; its end says otherwise
    return worktree


def _session(run: Run, worktree: Worktree, turn: int) -> Session:
    async def started() -> None:
        await run.tools.store.submit(StartAgent(run.agent.id, run.tree.name))

    return Session(
        agent_id=run.agent.id,
        task_id=run.agent.task_id,
        attempt=run.agent.attempt,
        spec=run.spec,
        backend=run.tree,
        workspace=worktree.workspace,
        binds=worktree.binds,
        limits=limits_for(run.spec, run.tools.default_limits),
        base=worktree.base.commit,
        branch=run.spec.landing_branch,
        scratch=run.tools.scratch,
        resumed=run.agent.resumed,
        output=run.output,
        started=started,
        meter=AgentMeter(run.ids, run.record, turn=turn),
        recall=partial(recall, run),
        open_home=worktree.open_home,
    )


def limits_for(spec: TaskSpec, default: Limits) -> Limits:
    """Return the ceilings of a task's sandbox: what it asks for, else the host's defaults."""
    asked = spec.options.resources
    return replace(
        default,
        memory_mb=asked.memory_mb or default.memory_mb,
        cpus=asked.cpus or default.cpus,
        pids=asked.pids or default.pids,
        disk_mb=asked.disk_mb or default.disk_mb,
    )


async def _think_until_approved(run: Run, turns: Turns, worktree: Worktree, place: Place) -> Sealed | None:
    """Give the agent turns until a candidate is approved; None where it changed nothing."""
    while True:
        number = place.number
        if place.prompt is not None:
            _check_budget(run)
            await _take_turn(run, turns, Prompt(place.prompt, number))
        else:
            await run.record(e.TaskExecuting(**run.ids))
        await run.record(e.AgentPhase(**run.ids, phase=Phase.CHECKING, answered=number))
        candidate = await worktree.collect(
            limits=run.tools.default_limits, deadline_s=COLLECT_S, message=f"Work on {run.agent.task_id}"
        )
        if candidate is None:
            return None
        sealed, reason, complaints = await _judge(run, worktree, candidate, number)
        if sealed is not None and not complaints:
            return sealed
        if number >= MAX_ROUNDS:
            raise RunFailed(reason, f"rejected {number} times; last: " + "; ".join(complaints))
        told = clipped(complaints)
        await run.record(e.AgentPhase(**run.ids, phase=Phase.WORKING, rejected=number, complaints=told))
        place = Place(number + 1, prompt_after(run, number, told))


def _check_budget(run: Run) -> None:
    """Raise where the budget has no room for a further turn; those of earlier lives were paid for, too."""
    most = run.spec.options.budget.turns
    if most is not None and run.tools.store.state.agents[run.agent.id].usage.turns >= most:
        raise RunFailed(Reason.BUDGET_EXCEEDED, f"the budget allows {most} turns")


async def _take_turn(run: Run, turns: Turns, prompt: Prompt) -> None:
    result = await turns.turn(prompt)
    if not result.metered:
        await run.record(*_turn_of(run, prompt, result))
    if not result.ok:
        raise _turn_failed(run, result)


def _turn_of(run: Run, prompt: Prompt, result: TurnResult) -> list[e.AgentEvent]:
    """Return what the journal is told of a turn that no meter counted."""
    spent = [e.AgentUsage(**run.ids, usage=result.usage)] if result.usage != NO_USAGE else []
    return [
        e.AgentTurn(
            **run.ids,
            turn=prompt.number,
            ok=result.ok,
            stop_reason=result.stop_reason,
            exit_code=result.exit.code if result.exit else None,
            duration_ms=round(result.duration_ms, 1),
            text=result.text,
        ),
        *spent,
    ]


def _turn_failed(run: Run, result: TurnResult) -> RunFailed:
    ended = result.exit
    if ended is None or not (ended.oom_killed or ended.excess):
        how = f"ended with {ended or result.stop_reason}"
        return RunFailed(Reason.AGENT_ERROR, f"the agent's program {how}", retryable=True)
    said, by_host = str(ended), False
    if not ended.excess:  # the kernel tells no figures
        by_host = "memory_mb" not in run.tree.enforced
        allowed = limits_for(run.spec, run.tools.default_limits).memory_mb
        said += ": the host had no more" if by_host else f": {allowed} MB are allowed"
    # The same work meets the same ceiling again; the host may have more another time.
    return RunFailed(
        beyond_ceiling(oom=ended.oom_killed), f"the agent's program was {said}", retryable=by_host
    )


async def _judge(
    run: Run, worktree: Worktree, candidate: str, number: int
) -> tuple[Sealed | None, Reason, list[str]]:
    """Seal and judge a candidate; return the sealed commit and, where it was rejected, why."""
    quarantine = worktree.quarantine
    violations = (await quarantine.judge(candidate))[:MAX_VIOLATIONS]
    if violations:
        facts = [
            e.PolicyViolated(**run.ids, rule=found.rule, path=found.path, detail=found.detail)
            for found in violations
        ]
        await run.record(*facts)
        complaints = [f"policy {found.rule}: {found.path}: {found.detail}" for found in violations]
        return None, Reason.POLICY_VIOLATION, complaints
    subject = await quarantine.subject_of(candidate)
    sealed = await quarantine.seal(candidate, commit_message(run.spec, run.agent.id, subject))
    run.progress.sealed = sealed
    verdicts = await _run_gates(run, worktree, sealed, number)
    complaints = [_complaint(verdict) for verdict in verdicts if not verdict.approved]
    return sealed, Reason.GATE_REJECTED, complaints


def _complaint(verdict: Verdict) -> str:
    tail = f"\n{verdict.output_tail}" if verdict.output_tail else ""
    return f"gate {verdict.gate}: {verdict.message}{tail}"


async def _run_gates(run: Run, worktree: Worktree, sealed: Sealed, number: int) -> tuple[Verdict, ...]:
    await run.tree.wait_thawed()
    plan = plan_gates(run.spec.profile, run.spec.gates)
    if run.tools.yolo:
        await run.record(e.YoloUsed(**run.ids))
        return ()
    if plan.skipped and number == 1:
        message = "this gate of the profile is not in this version"
        await run.record(*(e.GateSkipped(**run.ids, gate=gate, message=message) for gate in plan.skipped))

    async def judged(verdict: Verdict) -> None:
        event = e.GatePassed if verdict.approved else e.GateRejected
        await run.record(event(**run.ids, verdict=verdict))

    quarantine = worktree.quarantine
    exhibit = Exhibit(
        agent_id=run.agent.id,
        commit=sealed.commit,
        base=worktree.base.commit,
        read_base=quarantine.read_base,
        names_base=quarantine.list_base,
        open_checkout=lambda: quarantine.open_checkout(sealed.commit, backend=run.tree),
        backend=run.tree,
        limits=limits_for(run.spec, run.tools.default_limits),
        output=run.output,
        round=number,
    )
    return await run_gates(plan.run, exhibit, deadline_s=GATE_S, judged=judged)
