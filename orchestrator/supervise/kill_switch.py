"""The kill of one agent or of all: cut first, then prove, then journal, and answer the truth at any moment.

A kill cancels the scope and SIGKILLs the tree before anything is written to disk, answers after the kernel's
proof and the journal's commit, and is audited before and after. Invariant: every kill comes to its answer,
also while the supervisor drains, stops or is cut off. An agent whose run ended otherwise is ended here, with
the proof of that run: it went back to the queue, or its run was cut off before it could journal an end, and
once the supervisor is leaving nobody starts it again.
The base of `Supervisor`; called by the API.
"""

from __future__ import annotations

import logging

import trio

from orchestrator.core import commands as c
from orchestrator.core.model import Agent, AgentId, Reason, State, TaskId
from orchestrator.core.reports import KillAllReport, KillReport
from orchestrator.errors import AgentUnknown, AlreadyEnded, CommandRefused, OrchestratorError
from orchestrator.journal.store import AuditEntry, Store
from orchestrator.supervise.ending import Killed
from orchestrator.supervise.gear import Bell
from orchestrator.supervise.live import Live
from orchestrator.supervise.switches import Switches
from sandbox.procfs import one_look

log = logging.getLogger(__name__)

#: Waiting tasks that are cancelled at once: several commits' worth.
MAX_CANCELLING = 1000


class KillSwitch:
    """Ends agents from outside."""

    def __init__(self, store: Store, reaper_bell: Bell) -> None:
        self._store = store
        self._reaper_bell = reaper_bell
        self._lives: dict[AgentId, Live] = {}
        self.switches = Switches(store, self._lives)
        #: Agents to be ended in the moment they start: assigned by the journal, not yet started by us.
        self._doomed: dict[AgentId, Killed] = {}
        #: Kills that wait for such a start.
        self._expectant: set[trio.CancelScope] = set()
        #: Whether nobody is started any more.
        self.leaving = False
        #: All who wait for the journal are woken by each of its commits.
        self._cancelling = trio.CapacityLimiter(MAX_CANCELLING)
        #: Whose run has ended since then.
        self._departed: dict[AgentId, Live] = {}

    def leave_all_waiting(self) -> None:
        """Let no kill wait for the start of an agent, for there will be none."""
        self.leaving = True
        for scope in self._expectant:
            scope.cancel(reason="nobody is started any more")

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
        entry = AuditEntry(actor, "agents.kill_all", "*", "requested", f"{len(tasks)} tasks")
        met = bool(victims)
        await self._store.audit(entry, changed=met)
        reports: list[KillReport] = []
        errors: list[str] = []
        while victims:
            await self._kill_each(victims, end, reports, errors)
            victims = {} if errors else self._cut_each(tasks, end)
        remaining = sum(report.remaining for report in reports)
        elapsed_ms = round((trio.current_time() - began) * 1000, 1)
        outcome = f"{len(reports)} killed, {len(errors)} failed, {remaining} remaining"
        entry = AuditEntry(actor, "agents.kill_all", "*", outcome, f"{elapsed_ms} ms")
        await self._store.audit(entry, changed=met)
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
        over: Live | None = None
        while True:
            if live := live or self._lives.get(agent_id):
                live.cut(end)
                await live.ended.wait()
                if live.report is not None:
                    return live.report
                over, live = live, None  # a stop may have put it back into the queue
            over = over or self._departed.get(agent_id)
            if self.leaving:
                await self._store.record()  # what its run had still decided is committed now
            state = self._store.state
            agent = state.agents.get(agent_id)
            if agent is None or not agent.live:
                if over is not None and over.verdict is not None:
                    return over.verdict  # its run was cut off once that was on its way
                raise await self._gone(agent_id)
            if agent.active and not self.leaving:  # about to start here: it will be cut as it starts
                self._doomed[agent_id] = end
                await self._expect(state)
            elif report := await self._kill_idle(state, agent, end, over):
                return report

    async def _expect(self, state: State) -> None:
        """Wait until the state has moved on, or nobody is started any more."""
        with trio.CancelScope() as scope:
            self._expectant.add(scope)
            try:
                await self._store.wait_past(state.seq)
            finally:
                self._expectant.discard(scope)

    async def _kill_idle(
        self, state: State, agent: Agent, end: Killed, over: Live | None
    ) -> KillReport | None:
        """End an agent that nothing runs of; None where that has changed meanwhile.

        It waits in the queue, or was left by a run that was cut off. What came of the end of a run that we
        saw (`over`) is its proof.
        """
        began = trio.current_time()
        killed, remaining = (over.run.tree.killed, over.run.tree.remaining) if over else (0, 0)
        detail = f"it waited in the queue; {killed} processes killed before, {remaining} remaining"
        entry = AuditEntry(end.actor, "agent.kill", agent.id, "killed", detail)
        command: c.Command = c.CancelTask(agent.task_id, end.reason)
        if self.leaving:  # nobody can start it meanwhile
            command = c.KillAgent(agent.id, end.reason, f"killed by {end.actor}", killed, remaining)
        try:
            async with self._cancelling:
                await self._store.submit(command, audit=entry)
        except CommandRefused:
            if self._store.state.seq == state.seq:
                await self._expect(state)
            return None
        if agent.resumed or agent.active:  # it may hold a worktree, and no run looks after that
            self._reaper_bell.ring()
        elapsed_ms = round((trio.current_time() - (over.cut_at if over else began)) * 1000, 1)
        return KillReport(agent.id, killed, remaining, elapsed_ms)

    async def _gone(self, agent_id: AgentId) -> CommandRefused:
        agent = await self._store.find_agent(agent_id)
        if agent is None:
            return AgentUnknown(f"there is no agent {agent_id}")
        return AlreadyEnded(f"agent {agent_id} is {agent.status} already")
