"""One agent, top to bottom: check out, think, judge, land.

The control flow of `carry_out` *is* the agent's state machine; the journal's own machine refuses what cannot
follow. The assignment, durable before a run begins, is the intent of all that it makes on this host (J1):
whatever that is bears the agent's id. What leaves the host, a push, has an intent of its own. The run never
journals the end: `supervisor` does, outside the cancelled scope. What must outlive a kill (the worktree, for
salvage) is opened on the stack that the caller gives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from functools import partial

from orchestrator.agents.base import Prompt, Session, Turns
from orchestrator.agents.egress import Subject
from orchestrator.agents.meter import AgentMeter
from orchestrator.agents.outlet import open_outlet
from orchestrator.agents.prompt import RESULT_DIRECTORY, clipped
from orchestrator.core import events as e
from orchestrator.core.commands import StartAgent, TakeWork
from orchestrator.core.egress import Rules
from orchestrator.core.liveness import STARTED
from orchestrator.core.model import Phase, Reason
from orchestrator.core.policy import MAX_CRASHES, MAX_ROUNDS, crash_loop
from orchestrator.isolation import make_scratch
from orchestrator.repo.quarantine import Sealed
from orchestrator.repo.setups import SetupLayer
from orchestrator.repo.worktree import Worktree
from orchestrator.supervise.arrival import settle
from orchestrator.supervise.briefing import first_prompt, result_file
from orchestrator.supervise.conversation import converse, pass_on_messages, take_turn
from orchestrator.supervise.delivery import deliver, refuse_protected
from orchestrator.supervise.ending import Done, RunFailed, patient
from orchestrator.supervise.gear import Run, limits_for
from orchestrator.supervise.giving_back import give_back
from orchestrator.supervise.judging import judge, plan_gates
from orchestrator.supervise.mailbox import Mailbox
from orchestrator.supervise.outcome import read_outcome
from orchestrator.supervise.preparing import equip, prepare
from orchestrator.supervise.pulse import WatchedMeter
from orchestrator.supervise.resumption import (
    Place,
    find_place,
    mend_first,
    open_kept,
    prompt_after,
    recall,
)
from sandbox.base import Bind

#: Deadlines of the steps that are not the agent's own thinking.
COLLECT_S = 120.0


async def carry_out(run: Run, keep: AsyncExitStack) -> Done:
    """Carry the task to its end or raise; `keep` owns what must outlive a cancelled run."""
    tools, spec = run.tools, run.spec
    await run.tree.wait_thawed()
    with patient():
        landed = await settle(tools.store, tools.repositories, run.agent.id)
    if landed:  # by an earlier life
        return Done(Reason.DONE, landed.new, spec.landing_branch)
    tools.scanner.expect()
    if run.agent.crashes >= MAX_CRASHES:  # and was not given up before that was known
        raise RunFailed(Reason.CRASH_LOOP, crash_loop(run.agent.crashes))
    await mend_first(run)
    (kept, layer), why = await open_kept(run, keep)
    worktree, layer = (kept, layer) if kept else await _open_new(run, keep, why)
    run.progress.worktree = worktree
    plan = await plan_gates(run, worktree)
    task = await first_prompt(run, worktree, tools.judges.names(plan))
    place = await find_place(run, task) if kept else Place(1, task)
    runtime = tools.runtimes.find(run.agent.runtime)
    async with open_outlet(run.tree, *_egress_of(run)) as outlet:
        run = replace(run, outlet=equip(outlet, layer))
        with closing(_meter(run, run.agent.turn if kept else 0)) as meter:

            def talk(run: Run, place: Place, *, again: bool) -> Awaitable[Sealed | None]:
                return converse(
                    run,
                    lambda resumed: runtime.open(_session(run, worktree, meter, resumed=resumed)),
                    partial(_think_until_approved, run, meter, worktree, task=task),
                    place,
                    task=task,
                    again=again,
                )

            return await _land(replace(run, meter=meter), keep, worktree, talk, place, task=task)


async def _land(
    run: Run,
    keep: AsyncExitStack,
    worktree: Worktree,
    talk: Callable[..., Awaitable[Sealed | None]],
    place: Place,
    *,
    task: str,
) -> Done:
    """Talk with the agent until what it made has landed: its branch may move on meanwhile."""
    again = False
    while True:
        sealed = await talk(run, place, again=again)
        if sealed is None:
            return Done(Reason.NO_CHANGES, error=worktree.left_out)
        number = run.tools.store.state.agents[run.agent.id].answered
        landed = await deliver(run, worktree, sealed, number)
        if landed is None:
            return Done(Reason.NO_CHANGES, error="others have landed the same change meanwhile")
        if isinstance(landed, Sealed):
            return Done(Reason.DONE, landed.commit, run.spec.landing_branch)
        run, place = await give_back(run, worktree, landed, number, keep, task=task)
        again = True


async def _open_new(run: Run, keep: AsyncExitStack, why: str | None) -> tuple[Worktree, SetupLayer | None]:
    """Give the agent a new worktree on its branch; `why` says why an earlier one is not used."""
    tools, spec = run.tools, run.spec
    base = await tools.repositories.resolve(spec.context.repository, spec.context.branch)
    await refuse_protected(run, base)
    layer = await prepare(run, base, keep)
    starting = e.AgentPhase(
        **run.ids,
        phase=Phase.STARTING,
        base=base.commit,
        branch=spec.landing_branch,
        sandbox=run.tree.name,
        worktree="new",
        detail=why,
    )
    await run.tools.store.room_to_spare()
    await run.tools.store.note(starting)  # durable before `agent.running`, and before any end
    worktree = await keep.enter_async_context(
        tools.repositories.open_worktree(
            base,
            agent_id=run.agent.id,
            task_id=run.agent.task_id,
            backend=run.tree,
            shared=run.shared,
            layer=layer,
        )
    )
    worktree.kept = True  # for a later life, where this one is cut; its end says otherwise
    return worktree, layer


def _egress_of(run: Run) -> tuple[Rules, Subject]:
    """Return what the agent may reach, and who it is."""
    rules = run.tools.egress.narrow(run.spec.options.network.allow)
    agent = run.agent
    return rules, Subject(agent.task_id, agent.id, run.record, run.output, run.tree.clock)


def _meter(run: Run, turn: int) -> AgentMeter:
    return AgentMeter(
        run.ids,
        run.record,
        state=lambda: run.tools.store.state,
        own=run.spec.options.budget,
        provider=run.tools.provider,
        purse=run.tools.purse,
        stillness=run.tree,
        turn=turn,
    )


def _session(run: Run, worktree: Worktree, meter: AgentMeter, *, resumed: bool) -> Session:
    async def started() -> None:
        run.pulse.note(STARTED)
        await run.tools.store.submit(StartAgent(run.agent.id, run.tree.name))

    async def output(stream: str, line: str) -> None:
        run.pulse.note_line(line)
        await run.output(stream, line)

    make_scratch(run.tools.scratch)  # somebody may have tidied it away
    outbox = worktree.open_outbox()
    return Session(
        agent_id=run.agent.id,
        task_id=run.agent.task_id,
        attempt=run.agent.attempt,
        spec=run.spec,
        backend=run.backend,
        workspace=worktree.workspace,
        binds=(*worktree.binds, Bind(outbox, RESULT_DIRECTORY, writable=True)),
        result_file=result_file(run.tree.seen(outbox, RESULT_DIRECTORY)),
        limits=limits_for(run.spec, run.tools.default_limits, run.agent.runtime),
        base=worktree.base.commit,
        branch=run.spec.landing_branch,
        scratch=run.tools.scratch,
        resumed=resumed,
        output=output,
        started=started,
        meter=WatchedMeter(meter, run.pulse),
        recall=partial(recall, run),
        open_home=worktree.open_home,
        inbox=Mailbox(run),
        note=run.pulse.note,
    )


async def _think_until_approved(
    run: Run, meter: AgentMeter, worktree: Worktree, turns: Turns, place: Place, *, task: str
) -> Sealed | None:
    """Give the agent turns until a candidate is approved; None where it changed nothing."""
    while True:
        number, said = place.number, ""
        if place.prompt is not None:
            await meter.check()
            worktree.clear_result()
            said = await take_turn(run, turns, Prompt(place.prompt, number))
        else:
            await run.record(e.TaskExecuting(**run.ids))
        said = await pass_on_messages(run, turns, meter, number) or said
        outcome = await read_outcome(run, worktree, said, first=number == 1)
        answered = e.AgentPhase(**run.ids, phase=Phase.CHECKING, answered=number, result=outcome.result)
        await run.record(answered)
        candidate = await worktree.collect(
            limits=run.tools.default_limits, deadline_s=COLLECT_S, message=f"Work on {run.agent.task_id}"
        )
        place = Place(number, None)
        if candidate is None and not outcome.complaints:
            if await run.tools.store.submit(TakeWork(run.agent.id)):
                return None
            continue
        sealed, reason, complaints = await judge(run, worktree, candidate, number)
        complaints += outcome.complaints
        if sealed is not None and not complaints:
            if await run.tools.store.submit(TakeWork(run.agent.id)):
                return sealed
            continue  # somebody had something to say meanwhile
        rejections = number - run.tools.store.state.agents[run.agent.id].conflicts
        if rejections >= MAX_ROUNDS:
            raise RunFailed(reason, f"rejected {rejections} times; last: " + "; ".join(complaints))
        told = clipped(complaints)
        await run.record(e.AgentPhase(**run.ids, phase=Phase.WORKING, rejected=number, complaints=told))
        place = Place(number + 1, prompt_after(run, task, number, told))
