"""The nursery of all agents: starts each in a scope of its own, ends them, and journals every end.

One agent failing never hurts a sibling. A kill cancels the scope and SIGKILLs the tree before anything is
written to disk, answers after the kernel's proof and the journal's commit, and is audited. The agent itself
never writes its own end: `_attend` does, outside the cancelled scope, in the order of truth (killed, then
failed, then succeeded).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack, suppress
from datetime import datetime

import trio

from orchestrator.core import commands as c
from orchestrator.core.model import Agent, AgentId, Reason, State, TaskId
from orchestrator.core.reports import KillAllReport, KillReport
from orchestrator.errors import AgentUnknown, AlreadyEnded, CommandRefused, OrchestratorError
from orchestrator.journal.store import AuditEntry, Store
from orchestrator.supervise.dispatcher import run_dispatcher
from orchestrator.supervise.ending import (
    Done,
    Ending,
    Failed,
    Interrupted,
    Killed,
    Postponed,
    RunFailed,
    RunPostponed,
    failure_of,
)
from orchestrator.supervise.finish import Ledger, finish
from orchestrator.supervise.gear import Progress, Run, Tools
from orchestrator.supervise.live import Live
from orchestrator.supervise.run import carry_out
from orchestrator.supervise.switches import Switches
from orchestrator.supervise.tree import Tree
from sandbox.base import Backend, SandboxError
from sandbox.procfs import one_look

log = logging.getLogger(__name__)


class Supervisor:
    """Owns the live agents."""

    def __init__(
        self,
        store: Store,
        tools: Tools,
        backend: Backend,
        *,
        timeout_s: float,
        takes_work: bool,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._tools = tools
        self._backend = backend
        self._timeout_s = timeout_s
        self._takes_work = takes_work
        self._ledger = Ledger(store, clock, new_id)
        self._clock = clock
        self._lives: dict[AgentId, Live] = {}
        self.switches = Switches(store, self._lives)
        #: Agents to be ended in the moment they start: assigned by the journal, not yet started by us.
        self._doomed: dict[AgentId, Killed] = {}
        self._dispatching = trio.CancelScope()
        self._cutting = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start what the dispatcher assigns, until `stop`; returns when every agent is gone."""
        async with trio.open_nursery() as nursery:

            def start(agent_id: AgentId) -> None:
                live = self._admit(agent_id)
                nursery.start_soon(self._attend, live, name=f"agent {agent_id}")

            task_status.started()
            with self._dispatching:
                if not self._takes_work:
                    await trio.sleep_forever()
                await run_dispatcher(self._store, start, clock=self._clock, breaker=self._ledger.breaker)
            await self._put_back()  # at once, while others run on: whoever kills one of these waits for it

    async def _put_back(self) -> None:
        """Return to the queue who was assigned in the moment of the stop, and is never started."""
        await self._store.record()  # what was decided while the dispatcher still ran is committed by now
        for agent in list(self._store.state.agents.values()):
            if agent.active and agent.id not in self._lives:
                with suppress(CommandRefused):  # the reaper was quicker
                    await self._store.submit(c.ResumeAgent(agent.id, crashed=False))

    def running(self) -> Collection[AgentId]:
        """Return the agents that run now, or are being tidied up after by their own run."""
        return self._lives.keys()

    def live(self, agent_id: str) -> Live | None:
        """Return the agent that runs now under that id."""
        return self._lives.get(AgentId(agent_id))

    def lives(self) -> list[Live]:
        """Return the agents that run now, those that are being tidied up after too."""
        return list(self._lives.values())

    def _admit(self, agent_id: AgentId) -> Live:
        agent = self._store.state.agents[agent_id]
        spec = self._store.state.tasks[agent.task_id].spec
        live = Live(Run(agent, spec, Tree(self._backend), self._tools, Progress()))
        self._lives[agent_id] = live
        self.switches.take_in(live)
        log.info(
            "agent started", extra={"agent_id": agent_id, "task_id": agent.task_id, "attempt": agent.attempt}
        )
        if doom := self._doomed.pop(agent_id, None):
            live.cut(doom)
        elif self._cutting:
            live.cut(Interrupted())
        return live

    # --- one agent
    # ---------------------------------------------------------------------------------------------

    async def _attend(self, live: Live) -> None:
        """Carry one agent to its end, journal that end, and leave nothing of it on the host."""
        try:
            async with AsyncExitStack() as keep:
                ending = await self._carry_out(live, keep)
                live.over = True
                log.info("agent ended", extra={"agent_id": live.run.agent.id, "ending": str(ending)[:500]})
                await finish(live, ending, keep, self._ledger)
        finally:
            live.ended.set()
            self._lives.pop(live.run.agent.id, None)

    async def _carry_out(self, live: Live, keep: AsyncExitStack) -> Ending:
        outcome: Done | Failed | Postponed | None = None
        try:
            with live.scope:
                outcome = await self._carry_out_in_time(live, keep)
        except Exception as error:
            outcome = failure_of(error)
            log.warning(
                "agent's clean-up failed", extra={"agent_id": live.run.agent.id, "error": outcome.error}
            )
        return live.end or live.failure or outcome or Interrupted()

    async def _carry_out_in_time(self, live: Live, keep: AsyncExitStack) -> Done | Failed | Postponed:
        limit_s = live.run.spec.options.timeout or self._timeout_s
        late = Failed(Reason.TIMEOUT, f"the agent ran longer than {limit_s:g} s", retryable=True)
        with live.run.tree.clock.move_on_after(limit_s) as wall_clock:
            try:
                return await carry_out(live.run, keep)
            except RunPostponed as postponed:
                return Postponed(str(postponed))
            except Exception as error:
                if not isinstance(error, RunFailed | OrchestratorError | SandboxError):
                    log.exception("a run met what it did not expect", extra={"agent_id": live.run.agent.id})
                return late if wall_clock.cancel_called else failure_of(error)
        return late

    # --- ending agents from outside
    # ------------------------------------------------------------------------------

    async def kill(self, agent_id: str, *, actor: str) -> KillReport:
        """End one agent; return after the proof and its commit.

        Raises `AgentUnknown` and `AlreadyEnded`.
        """
        end = Killed(Reason.OPERATOR, actor)
        if live := self._lives.get(AgentId(agent_id)):
            live.cut(end)  # before anything is written
        known = self._store.state.agents.get(AgentId(agent_id))
        if known is not None and known.live:
            await self._store.audit(AuditEntry(actor, "agent.kill", agent_id, "requested"))
        return await self._kill(AgentId(agent_id), live, end)

    async def kill_all(self, *, actor: str, freeze: bool = False) -> KillAllReport:
        """End every agent that has not ended, waiting ones too; return after the last proof.

        A task that was live at the call has no live agent at the return: an attempt that failed meanwhile
        and was followed by a retry does not slip through. With `freeze` nothing is admitted any more.
        """
        began = trio.current_time()
        end = Killed(Reason.KILLSWITCH, actor)
        tasks = {agent.task_id for agent in self._store.state.agents.values() if agent.live}
        victims = self._cut_each(tasks, end)  # every tree first; then the journal and the proofs
        if freeze:
            await self.switches.freeze(actor=actor)
        await self._store.audit(AuditEntry(actor, "agents.kill_all", "*", "requested", f"{len(tasks)} tasks"))
        reports: list[KillReport] = []
        errors: list[str] = []
        while victims:
            await self._kill_each(victims, end, reports, errors)
            victims = {} if errors else self._cut_each(tasks, end)
        remaining = sum(report.remaining for report in reports)
        elapsed_ms = round((trio.current_time() - began) * 1000, 1)
        outcome = f"{len(reports)} killed, {len(errors)} failed, {remaining} remaining"
        await self._store.audit(AuditEntry(actor, "agents.kill_all", "*", outcome, f"{elapsed_ms} ms"))
        total = len(reports) + len(errors)
        return KillAllReport(total, len(reports), len(errors), tuple(errors), remaining, elapsed_ms)

    def _cut_each(self, tasks: set[TaskId], end: Killed) -> dict[AgentId, Live | None]:
        """Cut what runs for these tasks, synchronously; return their live agents, waiting ones too."""
        agents = self._store.state.agents.values()
        found = {a.id: self._lives.get(a.id) for a in agents if a.live and a.task_id in tasks}
        with one_look():
            for live in found.values():
                if live is not None:
                    live.cut(end)
        return found

    async def _kill_each(
        self, victims: dict[AgentId, Live | None], end: Killed, reports: list[KillReport], errors: list[str]
    ) -> None:
        async def finish(agent_id: AgentId, live: Live | None) -> None:
            try:
                reports.append(await self._kill(agent_id, live, end))
            except AlreadyEnded:
                log.debug("agent ended by itself", extra={"agent_id": agent_id})
            except OrchestratorError as error:
                errors.append(f"{agent_id}: {error.detail}")

        async with trio.open_nursery() as nursery:
            for agent_id, live in victims.items():
                nursery.start_soon(finish, agent_id, live)

    async def _kill(self, agent_id: AgentId, live: Live | None, end: Killed) -> KillReport:
        """End the agent, which is `live` where it ran at the call; else it may begin to run meanwhile."""
        while True:
            state = self._store.state
            if live := live or self._lives.get(agent_id):
                live.cut(end)
                await live.ended.wait()
                if live.report is not None:
                    return live.report
                live, state = None, self._store.state  # a stop may have put it back into the queue
            agent = state.agents.get(agent_id)
            if agent is None or not agent.live:
                raise await self._gone(agent_id)
            if agent.active:  # assigned in the journal, about to start here: it will be cut as it starts
                self._doomed[agent_id] = end
                await self._store.wait_past(state.seq)
            elif report := await self._kill_queued(state, agent, end):
                return report

    async def _kill_queued(self, state: State, agent: Agent, end: Killed) -> KillReport | None:
        """End an agent that waits in the queue; None where it left the queue meanwhile."""
        began = trio.current_time()
        entry = AuditEntry(end.actor, "agent.kill", agent.id, "killed", "it waited in the queue")
        try:
            await self._store.submit(c.CancelTask(agent.task_id, end.reason), audit=entry)
        except CommandRefused:
            if self._store.state.seq == state.seq:
                await self._store.wait_past(state.seq)
            return None
        if agent.resumed:  # it may hold a worktree, and no run looks after that
            self._tools.reaper_bell.ring()
        return KillReport(agent.id, 0, 0, round((trio.current_time() - began) * 1000, 1))

    async def _gone(self, agent_id: AgentId) -> CommandRefused:
        agent = await self._store.find_agent(agent_id)
        if agent is None:
            return AgentUnknown(f"there is no agent {agent_id}")
        return AlreadyEnded(f"agent {agent_id} is {agent.status} already")

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._cutting

    @property
    def leaving(self) -> bool:
        """Whether `leave` or `stop` was called."""
        return self._dispatching.cancel_called

    def leave(self) -> None:
        """Start nothing more; `run` returns once the agents that live now have ended."""
        self._dispatching.cancel(reason="shutdown")

    def stop(self) -> None:
        """Start nothing more and cut every live agent: each returns to the queue, for the next start."""
        self.leave()
        self._cutting = True
        for live in self._lives.values():
            live.cut(Interrupted())
