"""Runs the agents until signals end them: what the operating system's switches do.

SIGUSR1 freezes. SIGTERM drains: agents run on for `DRAIN_S`, so that what is about to land does, and are then
cut. SIGINT cuts at once, as a second signal does; one more waits for nothing. The invariants: what a signal
does to processes it does before anything is written; a cut agent returns to the queue; what stands still is
not waited for. Called by the assembly.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial

import trio

from orchestrator.core import events as e
from orchestrator.journal.store import AuditEntry, Store
from orchestrator.supervise.host import compare, watch_host
from orchestrator.supervise.supervisor import Supervisor

log = logging.getLogger(__name__)

#: The signals to be received, from before the first agent until after the last.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
#: How long SIGTERM lets agents run on; what needs longer goes on at the next start.
DRAIN_S = 5.0
#: From the cut to the last agent's end.
AGENT_GRACE_S = 20.0


async def run_until_signalled(
    supervisor: Supervisor,
    store: Store,
    signals: AsyncIterator[int],
    look: Callable[[], Mapping[str, float]],
    *beside: Callable[[], Awaitable[None]],
) -> None:
    """Run agents, and services `beside` them, until signals have ended them; a last one is not waited for."""
    await compare(store, look())  # before anything is started
    asked = "nobody"
    async with trio.open_nursery() as nursery:

        def cut() -> None:
            supervisor.stop()
            nursery.cancel_scope.deadline = trio.current_time() + AGENT_GRACE_S

        async def drain() -> None:
            with trio.move_on_after(DRAIN_S):
                await supervisor.switches.drain(actor=asked)
                await trio.sleep_forever()
            cut()

        async def obey() -> None:
            nonlocal asked
            async for number in signals:
                name = signal.Signals(number).name
                log.info("signal", extra={"signal": name})
                if number == signal.SIGUSR1:
                    nursery.start_soon(partial(supervisor.switches.freeze, actor=name))
                    continue
                asked, first = name, not supervisor.leaving
                if supervisor.stopping:
                    nursery.cancel_scope.cancel(reason="a signal more")
                elif first and number == signal.SIGTERM and not supervisor.switches.frozen:
                    supervisor.leave()
                    nursery.start_soon(drain)
                else:
                    cut()
                if first:
                    nursery.start_soon(store.record, e.SystemStopping())

        nursery.start_soon(obey)
        nursery.start_soon(watch_host, store, look)
        for service in (supervisor.switches.hold, *beside):
            nursery.start_soon(service)
        await supervisor.run()
        await store.audit(AuditEntry(asked, "control.stop", "*", "stopped"))
        nursery.cancel_scope.cancel(reason="every agent is gone")
