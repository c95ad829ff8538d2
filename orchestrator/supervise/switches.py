"""The operator's switches over all agents: freeze, thaw, drain.

Invariants: a freeze stops every process before anything is written, and is latched in the journal before it
is answered, so that it survives a restart; a thaw is journaled before anything goes on, and a freeze that
comes meanwhile wins over it. Each is audited twice: what was asked for, with the event itself, and what came
of it.
Owned by `supervisor`; called by the API and by signals.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import trio

from orchestrator.core.commands import Drain, Freeze, Thaw
from orchestrator.core.model import AgentId
from orchestrator.core.reports import SwitchReport
from orchestrator.errors import FreezeNotLatched, JournalError
from orchestrator.journal.store import AuditEntry, Store
from orchestrator.supervise.live import Live

log = logging.getLogger(__name__)

#: How long a freeze waits for sandboxes that are being launched: each is stopped as it starts.
START_S = 5.0
#: How often what is frozen is stopped again: a program may have asked the kernel for a SIGCONT.
HOLD_S = 1.0


class Switches:
    """Whether agents may move, and whether anything is admitted."""

    def __init__(self, store: Store, lives: Mapping[AgentId, Live]) -> None:
        self._store = store
        self._lives = lives
        self._frozen = store.state.control.frozen
        #: How often it was frozen: a thaw that was overtaken by a freeze lets nothing go on.
        self._freezes = 0
        #: Held from a switch's decision to its effect: the journal and the processes see the same order.
        self._turn = trio.Lock()
        self._moved = trio.lowlevel.ParkingLot()

    @property
    def frozen(self) -> bool:
        """Whether the agents stand still: true from the first stopped process on."""
        return self._frozen

    def take_in(self, live: Live) -> None:
        """Do to a new agent what was done to the others; called before it does anything."""
        if self._frozen:
            live.run.tree.freeze_nowait()

    def freeze_nowait(self) -> None:
        """Stop every process of every agent, synchronously, and let none start."""
        self._frozen = True
        self._freezes += 1
        self._stop_each()
        self._moved.unpark_all()

    def _stop_each(self) -> None:
        for live in self._running():
            live.run.tree.freeze_nowait()

    def _running(self) -> list[Live]:
        """Return the agents whose run is not over: what runs in the name of the others is ours."""
        return [live for live in self._lives.values() if not live.over]

    async def freeze(self, *, actor: str) -> SwitchReport:
        """Freeze, latch it, and return once every process stands still.

        Raises `FreezeNotLatched` where the journal cannot take it; the processes stand still all the same.
        """
        began = trio.current_time()
        self.freeze_nowait()
        elapsed_ms = _ms_since(began)
        log.warning("frozen", extra={"actor": actor, "agents": len(self._running()), "ms": elapsed_ms})
        entry = AuditEntry(actor, "control.freeze", "*", "requested", f"{elapsed_ms} ms")
        try:
            async with self._turn:
                changed = bool(await self._store.submit(Freeze(), audit=entry))
        except JournalError as error:
            raise FreezeNotLatched(
                f"every process was stopped in {elapsed_ms} ms, but that is not latched: {error.detail}"
            ) from error
        with trio.move_on_after(START_S):
            for live in self._running():
                await live.run.tree.wait_started()
        return await self._report(actor, "control.freeze", "frozen", elapsed_ms, changed=changed)

    async def thaw(self, *, actor: str) -> SwitchReport:
        """Let everything go on where it stood; where nothing is frozen, end a drain."""
        asked = self._freezes  # before it waits for its turn, as a freeze stops before it waits for its own
        async with self._turn:
            entry = AuditEntry(actor, "control.thaw", "*", "requested")
            changed = bool(await self._store.submit(Thaw(), audit=entry))
            began = trio.current_time()
            if self._freezes == asked:
                self._frozen = False
                for live in self._lives.values():
                    live.run.tree.thaw_nowait()
        return await self._report(actor, "control.thaw", "thawed", _ms_since(began), changed=changed)

    async def drain(self, *, actor: str) -> SwitchReport:
        """Admit nothing more; what runs goes on to its end."""
        began = trio.current_time()
        entry = AuditEntry(actor, "control.drain", "*", "requested")
        changed = bool(await self._store.submit(Drain(), audit=entry))
        return await self._report(actor, "control.drain", "draining", _ms_since(began), changed=changed)

    async def hold(self) -> None:
        """Keep still what is frozen, until cancelled."""
        while True:
            while not self._frozen:
                await self._moved.park()
            with trio.move_on_after(HOLD_S):
                await self._moved.park()
            if self._frozen:
                self._stop_each()

    async def _report(
        self, actor: str, action: str, outcome: str, elapsed_ms: float, *, changed: bool
    ) -> SwitchReport:
        running, control = self._running(), self._store.state.control
        trees = [live.run.tree for live in running]
        processes = sum(len(tree.processes()) for tree in trees)
        starting = sum(tree.starting for tree in trees)
        detail = f"{len(running)} agents, {processes} processes, {starting} starting, {elapsed_ms} ms"
        await self._store.audit(AuditEntry(actor, action, "*", outcome, detail), changed=changed)
        return SwitchReport(control.frozen, control.draining, len(running), processes, starting, elapsed_ms)


def _ms_since(began: float) -> float:
    return round((trio.current_time() - began) * 1000, 1)
