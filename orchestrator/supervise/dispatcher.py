"""Takes agents from the queue whenever a slot is free: the only place that assigns.

Level-triggered: it reads the committed state, assigns what may start, and waits until the state has moved
past what it read or a retry falls due. A wake-up cannot be lost and nothing is polled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

import trio

from orchestrator.core.commands import AssignAgent
from orchestrator.core.model import AgentId
from orchestrator.core.policy import free_slots
from orchestrator.errors import CommandRefused
from orchestrator.journal.store import Store

log = logging.getLogger(__name__)


async def run_dispatcher(
    store: Store, start: Callable[[AgentId], None], *, clock: Callable[[], datetime]
) -> None:
    """Assign due agents to free slots and call `start` for each, until cancelled."""
    while True:
        seq = store.state.seq
        await _fill_slots(store, start, clock)
        due = store.waiting.next_due()
        delay_s = max(0.0, (due - clock()).total_seconds()) if due else float("inf")
        with trio.move_on_after(delay_s):
            await store.wait_past(seq)


async def _fill_slots(store: Store, start: Callable[[AgentId], None], clock: Callable[[], datetime]) -> None:
    while free_slots(store.state) > 0:
        agent_id = store.waiting.first_due(clock())
        if agent_id is None:
            return
        try:
            await store.submit(AssignAgent(agent_id))
        except CommandRefused as refusal:  # paused, cancelled or taken since the state was read
            log.debug("agent not assigned", extra={"agent_id": agent_id, "detail": refusal.detail})
            return
        start(agent_id)
