"""Notices that the orchestrator starts again and again after crashes, and then starts with its queue paused.

Invariant: nothing that waits is lost by it; what runs into it is told by `system.degraded`, and a person
resumes the queue. Called by `assembly`, before the start is journaled.
"""

from __future__ import annotations

import logging
from datetime import datetime

from orchestrator.core import events as e
from orchestrator.core.commands import PauseQueue
from orchestrator.core.intensity import START_WINDOW, starts_too_often
from orchestrator.journal.store import Store

log = logging.getLogger(__name__)


async def guard_against_restarts(store: Store, now: datetime) -> bool:
    """Pause the queue where this is one crash too many; return whether it is."""
    crashed = await _crashed_starts(store, now)
    if not starts_too_often(crashed, now):
        return False
    detail = (
        f"it crashed {len(crashed)} times within {START_WINDOW.total_seconds() / 60:g} minutes, so the"
        " queue is paused: look at its log for the cause, then resume the queue"
    )
    log.error("starting with the queue paused", extra={"detail": detail})
    await store.submit(PauseQueue())
    await store.record(e.SystemDegraded(part="orchestrator", detail=detail))
    return True


async def _crashed_starts(store: Store, now: datetime) -> list[datetime]:
    """Return when of late it was started without having been stopped; none where this is no such start."""
    known = await store.latest([e.SystemStarted.name, e.SystemStopping.name])
    crashed = []
    running = False
    for recorded in known:
        started = isinstance(recorded.event, e.SystemStarted)
        if started and running:
            crashed.append(recorded.time)
        running = started
    return [*(time for time in crashed if now - time <= START_WINDOW), now] if running else []
