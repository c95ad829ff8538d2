"""Slows the orchestrator down where it starts again and again after crashes, so that it does not burn.

Invariant: nothing that waits is lost by it, and nobody is needed to lift it. A hold is a shortage like those
of the host (`core.watermark`): the state machine keeps the queue while it lasts, `system.degraded` and
`system.recovered` tell. Called by `assembly` and, to tell a crash from a stop, by `reaper`.
"""

from __future__ import annotations

import logging
from datetime import datetime

import trio

from orchestrator.core import events as e
from orchestrator.core.intensity import START_WINDOW, start_hold_s
from orchestrator.core.watermark import RESTARTS
from orchestrator.journal.store import Store

log = logging.getLogger(__name__)


async def was_stopping(store: Store) -> bool:
    """Return whether the last process had been asked to stop; then its end, however it came, is no crash.

    To be asked before this start is journaled.
    """
    known = await store.latest([e.SystemStarted.name, e.SystemStopping.name])
    return bool(known) and isinstance(known[-1].event, e.SystemStopping)


async def crashed_starts(store: Store, now: datetime) -> list[datetime]:
    """Return when of late it was started without having been stopped, this start among them, if it is one.

    To be asked before this start is journaled.
    """
    known = await store.latest([e.SystemStarted.name, e.SystemStopping.name])
    crashed = []
    running = False
    for recorded in known:
        started = isinstance(recorded.event, e.SystemStarted)
        if started and running:
            crashed.append(recorded.time)
        running = started
    return [*(time for time in crashed if now - time <= START_WINDOW), now] if running else []


async def hold_back(store: Store, crashed: list[datetime], now: datetime, ceiling_s: float) -> float:
    """Keep the queue where this start is one crash too many; return for how many seconds, 0 for none."""
    hold_s = start_hold_s(crashed, now, ceiling_s)
    if hold_s:
        minutes = START_WINDOW.total_seconds() / 60
        detail = (
            f"it crashed {len(crashed)} times within {minutes:g} minutes: nothing is started for {hold_s:g} s"
        )
        log.error("held back after many crashes", extra={"detail": detail})
        await store.record(e.SystemDegraded(part=RESTARTS, detail=detail))
    return hold_s


async def let_go(store: Store, hold_s: float) -> None:
    """Let the queue go once the hold is over."""
    if hold_s:
        await trio.sleep(hold_s)
        await store.record(e.SystemRecovered(part=RESTARTS))
