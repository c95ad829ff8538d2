"""How an agent is finished: what is done after its run is over, in which order, and what is journaled.

Invariant: one end a run, journaled by us and not by the run (J6); work that landed is an agent that
completed, whatever cut it afterwards (J11); nothing unlanded is removed before it was tried to be kept, also
where the run ended before it came to the worktree of an earlier life. An end that is known is journaled, also
where a stop leaves its salvage to the next start.
Called by `supervisor`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import trio

from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.model import Agent, AgentId, Reason
from orchestrator.core.policy import backoff_s
from orchestrator.core.reports import KillReport
from orchestrator.errors import IllegalTransition
from orchestrator.journal.store import AuditEntry, Store
from orchestrator.supervise.breaker import Breaker
from orchestrator.supervise.ending import Done, Ending, Failed, Interrupted, Killed, Postponed
from orchestrator.supervise.live import Live
from orchestrator.supervise.radar import leave_radar
from orchestrator.supervise.salvage import Aftermath, leave, remove, salvage, settle_push
from orchestrator.supervise.upkeep import blame

#: Who is postponed waits as after so many failed attempts: 8 to 16 seconds. What may never pass is waited for
#: longer each time, and so often: about half an hour.
POSTPONED_AS = 5
MAX_POSTPONED = 12
#: For how many turns of the loop what follows a kill gives way to its answer, which takes some ten.
TURNS = 20


@dataclass(frozen=True, slots=True)
class Ledger:
    """Where ends are written down, and what writing one down needs."""

    store: Store
    clock: Callable[[], datetime]
    new_id: Callable[[], str]
    #: Learns of every end, and holds back what would only fail again.
    breaker: Breaker = field(default_factory=Breaker)
    #: How often each agent was postponed in a row for what may never pass.
    postponed: Counter[AgentId] = field(default_factory=Counter)


async def finish(live: Live, ending: Ending, keep: AsyncExitStack, ledger: Ledger) -> None:
    """Salvage, remove and journal, in the order that the ending asks for."""
    run, aftermath, proven_at = live.run, Aftermath(), trio.current_time()
    await _settle_debts(live, ledger)
    ending = await _settle(live, ending, keep, aftermath, ledger)
    leave_radar(run, commit=ending.commit if isinstance(ending, Done) else None)
    if isinstance(ending, Killed):
        await _journal_kill(live, ending, proven_at, ledger.store)
        live.ended.set()  # who asked is answered now, and not kept waiting for what is left to tidy up
        for _ in range(TURNS):
            await trio.lowlevel.checkpoint()
        await settle_push(run, aftermath)
        with live.salvaging:
            await salvage(run, keep, aftermath)
    # A stop that cuts a salvage leaves it, and what is there to be salvaged, to the next start.
    # So does one that failed: the reaper tries again, and says what became of it.
    unkept = live.salvaging.cancelled_caught or aftermath.unsalvaged
    stays = isinstance(ending, Interrupted | Postponed) or unkept
    if stays:
        await leave(run, keep, aftermath)
        _put_off(live, aftermath, ledger)
    else:
        await remove(run, keep, aftermath)
    if isinstance(ending, Failed) and isinstance(live.end, Killed):  # up to the last moment a kill wins
        await _journal_kill(live, live.end, proven_at, ledger.store)
    elif not isinstance(ending, Killed):
        await _journal_end(live, ending, ledger)
    if not stays:
        await ledger.store.record(aftermath.event(run))


def _put_off(live: Live, aftermath: Aftermath, ledger: Ledger) -> None:
    """Leave what could not be salvaged to the reaper, who tries again as soon as that may help."""
    tools, agent = live.run.tools, live.run.agent
    if aftermath.unsalvaged and not live.salvaging.cancelled_caught:
        free, today = tools.repositories.free_bytes(), ledger.clock()
        tools.backlog.put(agent, aftermath.unsalvaged, 0, now=trio.current_time(), today=today, free=free)
        tools.reaper_bell.ring()


async def _settle_debts(live: Live, ledger: Ledger) -> None:
    """Note what the agent's requests in flight had cost: durable with its end, which does not wait for it."""
    run = live.run
    if owed := run.tools.purse.settle(run.agent.id):
        with suppress(IllegalTransition):  # somebody else ended it already
            await ledger.store.note(e.AgentUsage(**run.ids, usage=owed))


async def _settle(
    live: Live, ending: Ending, keep: AsyncExitStack, aftermath: Aftermath, ledger: Ledger
) -> Ending:
    """Return how the agent really ended: work that landed is done, and a kill overtakes a failure.

    A failure that our own copy of the repository is to blame for is none, as long as there is patience.
    """
    run = live.run
    if isinstance(ending, Failed | Interrupted):
        await settle_push(run, aftermath)
        if landed := run.landed:  # whatever came after
            return Done(Reason.DONE, landed.new, run.spec.landing_branch)
    if isinstance(ending, Failed):
        ending = await _find_blame(live, ending)
    if isinstance(ending, Postponed) and ending.failed and not _wait_once_more(run.agent.id, ledger):
        ending = ending.failed
    if not isinstance(ending, Failed) or live.salvaging.cancelled_caught:
        return ending
    with live.salvaging:
        await salvage(run, keep, aftermath)
    return _overtaken(live) or ending  # it may have come while there was still a retry to prevent


async def _find_blame(live: Live, failed: Failed) -> Ending:
    """Return what a failure is once it is known whether our own copy of the repository is to blame."""
    found = None
    with live.salvaging:
        found = await blame(live.run, failed)
    if killed := _overtaken(live):
        return killed
    if not live.salvaging.cancelled_caught:
        live.salvaging = trio.CancelScope()
    return found or failed


def _overtaken(live: Live) -> Killed | None:
    """Return the kill that came while a failure was looked after, whose salvage then begins anew."""
    if not isinstance(live.end, Killed):
        return None
    live.salvaging = trio.CancelScope()
    return live.end


def _wait_once_more(agent_id: AgentId, ledger: Ledger) -> bool:
    """Return whether there is patience left with what an agent waits for, and count it."""
    agents = ledger.store.state.agents
    for gone in [each for each in ledger.postponed if each not in agents]:
        del ledger.postponed[gone]
    ledger.postponed[agent_id] += 1
    return ledger.postponed[agent_id] <= MAX_POSTPONED


async def _journal_end(live: Live, ending: Done | Failed | Interrupted | Postponed, ledger: Ledger) -> None:
    agent_id, repository = live.run.agent.id, live.run.spec.context.repository
    waited = ledger.postponed[agent_id]
    if not isinstance(ending, Postponed):
        del ledger.postponed[agent_id]
    match ending:
        case Done():
            if ledger.breaker.succeeded(repository):
                await ledger.store.record(e.SystemRecovered(part="repository"))
            command = c.CompleteAgent(agent_id, ending.reason, ending.commit, ending.branch, ending.error)
            await ledger.store.submit(command)
        case Failed():
            # Before the journal: the dispatcher hears of the end from there.
            passing = ending.retryable
            trouble = passing and ledger.breaker.failed(repository, ending.reason, ledger.clock())
            if trouble:
                await ledger.store.record(e.SystemDegraded(part="repository", detail=trouble))
            await ledger.store.submit(_failure(live.run.agent, ending, ledger))
        case Interrupted():
            await ledger.store.submit(c.ResumeAgent(agent_id, crashed=False))
        case Postponed():
            wait = timedelta(seconds=backoff_s(POSTPONED_AS + max(0, waited - 1), random.random()))  # noqa: S311 - as below
            again = c.ResumeAgent(agent_id, crashed=False, not_before=ledger.clock() + wait)
            await ledger.store.submit(again)


def _failure(agent: Agent, ending: Failed, ledger: Ledger) -> c.FailAgent:
    wait = timedelta(seconds=backoff_s(agent.attempt, random.random()))  # noqa: S311 - jitter, no secret
    return c.FailAgent(
        agent.id,
        ending.reason,
        ending.error,
        ending.retryable,
        AgentId(ledger.new_id()),
        ledger.clock() + wait,
    )


async def _journal_kill(live: Live, ending: Killed, proven_at: float, store: Store) -> None:
    tree, agent_id = live.run.tree, live.run.agent.id
    elapsed_ms = round(max(0.0, proven_at - live.cut_at) * 1000, 1)
    report = live.verdict = KillReport(agent_id, tree.killed, tree.remaining, elapsed_ms)
    command = c.KillAgent(
        agent_id,
        ending.reason,
        f"killed by {ending.actor}",
        report.killed_processes,
        report.remaining,
        elapsed_ms,
    )
    detail = f"{report.killed_processes} processes killed, {report.remaining} remaining, {elapsed_ms} ms"
    entry = AuditEntry(ending.actor, "agent.kill", agent_id, "killed", detail)
    await store.submit(command, audit=entry)
    await tree.wait_departed()
    live.report = report
