"""The nursery of all agents: starts each in a scope of its own, ends them, and journals every end.

One agent failing never hurts a sibling. How they are ended from outside is in `kill_switch`. The agent itself
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
from orchestrator.core.model import AgentId, Reason
from orchestrator.errors import CommandRefused, OrchestratorError
from orchestrator.journal.store import Store
from orchestrator.supervise.dispatcher import run_dispatcher
from orchestrator.supervise.ending import (
    Done,
    Ending,
    Failed,
    Interrupted,
    Postponed,
    RunFailed,
    RunPostponed,
    failure_of,
)
from orchestrator.supervise.finish import Ledger, finish
from orchestrator.supervise.gear import Progress, Run, Tools
from orchestrator.supervise.kill_switch import KillSwitch
from orchestrator.supervise.live import Live
from orchestrator.supervise.run import carry_out
from orchestrator.supervise.tree import Tree
from sandbox.base import Backend, SandboxError

log = logging.getLogger(__name__)


class Supervisor(KillSwitch):
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
        super().__init__(store, tools.reaper_bell)
        self._tools = tools
        self._backend = backend
        self._timeout_s = timeout_s
        self._takes_work = takes_work
        self._ledger = Ledger(store, clock, new_id)
        self._clock = clock
        self._dispatching = trio.CancelScope()
        self._cutting = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start what the dispatcher assigns, until `stop`; returns when every agent is gone."""
        async with trio.open_nursery() as nursery:

            def start(agent_id: AgentId) -> None:
                if self.leaving:  # the dispatcher, on its last step: who leaves starts nobody
                    return
                live = self._admit(agent_id)
                nursery.start_soon(self._attend, live, name=f"agent {agent_id}")

            task_status.started()
            with self._dispatching:
                if not self._takes_work:
                    await trio.sleep_forever()
                await run_dispatcher(self._store, start, clock=self._clock, breaker=self._ledger.breaker)
            await self._put_back()  # at once, while others run on

    async def _put_back(self) -> None:
        """Return to the queue who was assigned in the moment of the stop, and is never started."""
        await self._store.record()  # what was decided while the dispatcher still ran is committed by now
        for agent in list(self._store.state.agents.values()):
            if agent.active and agent.id not in self._lives:
                with suppress(CommandRefused):  # the reaper was quicker, or a kill
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
            if self.leaving:
                self._departed[live.run.agent.id] = live

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
                return Postponed(str(postponed), postponed.failed)
            except Exception as error:
                if not isinstance(error, RunFailed | OrchestratorError | SandboxError):
                    log.exception("a run met what it did not expect", extra={"agent_id": live.run.agent.id})
                return late if wall_clock.cancel_called else failure_of(error)
        return late

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._cutting

    def leave(self) -> None:
        """Start nothing more; `run` returns once the agents that live now have ended."""
        self.leave_all_waiting()
        self._dispatching.cancel(reason="shutdown")

    def stop(self) -> None:
        """Start nothing more and cut every live agent: each returns to the queue, for the next start."""
        self.leave()
        self._cutting = True
        for live in self._lives.values():
            live.cut(Interrupted())
