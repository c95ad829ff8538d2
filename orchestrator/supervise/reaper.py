"""Makes registry and reality agree, both ways: before the API says ready, every minute, and when asked.

Invariant: after `recover`, and after each pass, every directory of ours belongs to an agent of the state and
no agent of the state counts as active without a run (J7, J8). Nothing is reaped that is just being made: an
agent is assigned, durably, before anything of it exists. `recover` ends processes, reaps what nobody owns and
returns cut agents to the queue, and asks no remote; the worktrees of those who go on stay. What ended agents
left is salvaged and removed by the passes, after the start. Called by `assembly`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime

import trio

from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.model import AgentId, AgentStatus, PushIntent, Reason
from orchestrator.core.recovery import Complete, FinishCleanup, Reap, Resume, remedies
from orchestrator.core.reports import GarbageReport
from orchestrator.errors import CommandRefused, JournalError, OrchestratorError, RepositoryError
from orchestrator.isolation import make_scratch
from orchestrator.journal.store import utc_now
from orchestrator.supervise.ending import failure_of
from orchestrator.supervise.garbage import collect_garbage, is_read
from orchestrator.supervise.gear import Progress, Run, Tools
from orchestrator.supervise.keepsakes import Keepsakes
from orchestrator.supervise.restarts import was_stopping
from orchestrator.supervise.salvage import Aftermath, leave, remove, salvage, settle_push
from orchestrator.supervise.tree import Tree
from orchestrator.supervise.upkeep import mend
from sandbox.base import Backend, SandboxError
from sandbox.strays import end_processes, find_labelled

log = logging.getLogger(__name__)

#: Between two passes.
EVERY_S = 60.0
#: The same, while work waits to be salvaged: as soon as there is room for it.
SOON_S = 10.0
#: What `system.degraded` and `system.recovered` call that.
PART = "salvage"
#: How long killed processes may take to be gone; the kernel needs milliseconds.
KILL_S = 5.0

#: Ends what a sandbox backend left (cgroups, containers) under labels that `owned` says are ours and not in
#: use; returns how many.
Leftovers = Callable[[Callable[[str], Awaitable[bool]]], Awaitable[int]]


@dataclass(slots=True)
class Recovered:
    """How much was put right."""

    resumed: int = 0
    ended: int = 0
    reaped: int = 0


class Reaper:
    """Looks after what no run takes care of."""

    def __init__(
        self,
        tools: Tools,
        backend: Backend,
        *,
        running: Callable[[], Collection[AgentId]],
        leftovers: Sequence[Leftovers] = (),
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Take `running`, which names the agents whose run takes care of them now."""
        self._tools = tools
        self._store = tools.store
        self._repositories = tools.repositories
        self._backend = backend
        self._running = running
        self.leftovers = leftovers
        self._clock = clock
        self.keepsakes = Keepsakes(tools.store, tools.repositories, tools.salvage_keep_days, clock)
        self._at_work = trio.Lock()
        #: Agents that the last pass found active without a run: they may just have been assigned.
        self._suspects: frozenset[AgentId] = frozenset()
        self._told = False

    async def recover(self) -> Recovered:
        """Heal what the last process left, as far as the API must wait for it, and journal the sum."""
        done = Recovered()
        await self._end_processes(done)
        try:
            await self._repositories.sweep()
        except OSError as error:  # the passes try again
            log.warning("what a crash left half made stays", extra={"error": str(error)})
        crashed = not await was_stopping(self._store)
        for remedy in remedies(self._store.state, self._repositories.directories()):
            match remedy:
                case Reap(name=name):
                    await self._reap(name, done)
                case Complete(agent_id=agent_id, push=push):
                    await self._complete(agent_id, push, done)
                case Resume(agent_id=agent_id):
                    await self._resume(agent_id, done, crashed=crashed)
        await self._tell(done)
        return done

    async def run(self) -> None:
        """Take a pass now, every minute, and when the bell rings, until cancelled."""
        while True:
            try:
                await self.take_pass()
            except JournalError:
                raise
            except (OrchestratorError, SandboxError, OSError) as error:
                log.warning("a pass of the reaper failed", extra={"error": failure_of(error).error})
            with trio.move_on_after(SOON_S if self._tools.backlog else EVERY_S):
                await self._tools.reaper_bell.wait()

    async def collect_garbage(self, dry_run: bool) -> GarbageReport:
        """Tell what nobody needs and, unless it is a dry run, remove it."""
        async with self._at_work:
            return await collect_garbage(self._tools, self._running, dry_run=dry_run)

    async def take_pass(self) -> Recovered:
        """Put right what is not as the state says; return how much that was."""
        async with self._at_work:
            return await self._take_pass()

    async def _take_pass(self) -> Recovered:
        done = Recovered()
        await self._end_processes(done)
        # From one moment: whoever is in neither list began after it.
        state, running = self._store.state, frozenset(self._running())
        plan = remedies(state, self._repositories.directories(), running)
        lost = frozenset(remedy.agent_id for remedy in plan if isinstance(remedy, Resume | Complete))
        known, self._suspects = self._suspects & lost, lost
        for remedy in plan:
            match remedy:
                case Reap(name=name):
                    await self._reap(name, done)
                case Complete(agent_id=agent_id, push=push) if agent_id in known:
                    await self._complete(agent_id, push, done)
                case Resume(agent_id=agent_id) if agent_id in known:
                    await self._resume(agent_id, done, crashed=False)
                case FinishCleanup(agent_id=agent_id):
                    await self._finish(agent_id, worth_keeping=remedy.salvage)
        await self._tidy(done)
        await self.keepsakes.expire()
        await self._tell(done)
        await self._tell_of_backlog()
        return done

    async def _tell_of_backlog(self) -> None:
        """Say once that work waits to be salvaged, and once that none does any more."""
        waits = bool(self._tools.backlog)
        if waits == self._told or self._store.room.scarce:  # on a full disk there is room for ends alone
            return
        self._told = waits
        detail = self._tools.backlog.tell()
        await self._store.record(
            e.SystemDegraded(part=PART, detail=detail) if waits else e.SystemRecovered(part=PART)
        )

    async def _tell(self, done: Recovered) -> None:
        if done != Recovered():
            log.info("recovered", extra={"resumed": done.resumed, "ended": done.ended, "reaped": done.reaped})
            await self._store.record(
                e.SystemRecovered(resumed=done.resumed, ended=done.ended, reaped=done.reaped)
            )

    # --- what nobody owns
    # -----------------------------------------------------------------------------------------

    async def _owned(self, label: str) -> bool:
        """Return whether a label is of an agent of ours that nothing runs under now."""
        return label not in self._running() and await self._store.find_agent(label) is not None

    async def _end_processes(self, done: Recovered) -> None:
        for label, strays in find_labelled().items():
            if await self._owned(label):
                log.warning(
                    "ending processes that were left", extra={"agent_id": label, "count": len(strays)}
                )
                done.reaped += 1
                if left := await end_processes(strays, patience_s=KILL_S):
                    log.error("processes outlive SIGKILL", extra={"agent_id": label, "count": left})
        for reap in self.leftovers:
            done.reaped += await reap(self._owned)

    async def _reap(self, name: str, done: Recovered) -> None:
        try:
            await self._repositories.reap(name)
        except RepositoryError as error:  # gone meanwhile
            log.debug("not reaped", extra={"directory": name, "error": error.detail})
        except OSError as error:  # the others must not wait for it, nor the start
            log.warning("a directory cannot be removed", extra={"directory": name, "error": str(error)})
        else:
            done.reaped += 1

    async def _tidy(self, done: Recovered) -> None:
        """Remove what lies about elsewhere: half made checkouts, files for agents that are no more."""
        await self._repositories.tidy()
        running = self._running()
        make_scratch(self._tools.scratch)
        for path in list(self._tools.scratch.iterdir()):
            # Directories are homes, which end with their sandboxes, and at each start.
            if path.is_file() and not is_read(path, running):
                log.warning("removing a file that was left", extra={"file": path.name})
                path.unlink(missing_ok=True)
                done.reaped += 1

    # --- agents
    # ---------------------------------------------------------------------------------------------------

    async def _resume(self, agent_id: AgentId, done: Recovered, *, crashed: bool) -> None:
        try:
            recorded = await self._store.submit(c.ResumeAgent(agent_id, crashed=crashed))
        except CommandRefused as refusal:  # it ended, or began to run, since the pass looked
            log.debug("agent not resumed", extra={"agent_id": agent_id, "detail": refusal.detail})
            return
        if any(isinstance(entry.event, e.AgentFailed) for entry in recorded):
            done.ended += 1
        else:
            done.resumed += 1

    async def _complete(self, agent_id: AgentId, push: PushIntent, done: Recovered) -> None:
        branch = push.ref.removeprefix("refs/heads/")
        try:
            await self._store.submit(c.CompleteAgent(agent_id, Reason.DONE, push.new, branch))
        except CommandRefused as refusal:  # it ended since the pass looked
            log.debug("agent not completed", extra={"agent_id": agent_id, "detail": refusal.detail})
            return
        done.ended += 1

    async def _finish(self, agent_id: AgentId, *, worth_keeping: bool) -> None:
        """Keep what an ended agent left, remove the rest, and journal that."""
        agent = self._store.state.agents.get(agent_id)
        task = await self._store.find_task(agent.task_id) if agent else None
        if agent is None or task is None or agent_id in self._running():
            return
        free = self._repositories.free_bytes()
        if not self._tools.backlog.is_due(agent_id, trio.current_time(), free):
            return
        run = Run(agent, task.spec, Tree(self._backend), self._tools, Progress())
        url = task.spec.context.repository
        aftermath = Aftermath(self._repositories.find_salvage(url, agent_id))  # kept before the crash
        async with AsyncExitStack() as keep:
            if agent.status is not AgentStatus.COMPLETED:
                await settle_push(run, aftermath)
            if worth_keeping:
                with suppress(RepositoryError):  # here is the time that a salvage does not have for it
                    await mend(run)
                await salvage(run, keep, aftermath)
            stays = aftermath.unsalvaged is not None and not await self._give_up(run, aftermath)
            await (leave if stays else remove)(run, keep, aftermath)
        if not stays:
            self._tools.backlog.drop(agent_id)
            await self._store.record(aftermath.event(run))

    async def _give_up(self, run: Run, aftermath: Aftermath) -> bool:
        """Return whether work that could not be salvaged has been tried often enough."""
        agent = run.agent
        size = await self._repositories.measure(agent.id, agent.task_id)
        given_up = self._tools.backlog.put(
            agent,
            aftermath.unsalvaged or "",
            size,
            now=trio.current_time(),
            today=self._clock(),
            free=self._repositories.free_bytes(),
        )
        if given_up:
            aftermath.note(run, f"salvage: {given_up}")
        return given_up is not None
