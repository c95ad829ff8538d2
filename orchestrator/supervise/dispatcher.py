"""Takes agents from the queue whenever a slot is free, and starts every agent that has one.

Level-triggered: it reads the committed state, starts who has a slot, assigns who may have one, and waits
until the state has moved past what it read or a retry falls due. A wake-up cannot be lost and nothing is
polled. While it runs, a task that meets a free slot and an empty queue is given the slot by its own
submission, in one commit; it is started here all the same, the only place that does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import datetime

import trio

from orchestrator.core.commands import AbandonAgent, AssignAgent
from orchestrator.core.model import AgentId
from orchestrator.core.policy import free_slots, standings_beside, worst_active
from orchestrator.errors import CommandRefused
from orchestrator.journal.store import Store
from orchestrator.supervise.breaker import Breaker

log = logging.getLogger(__name__)

#: Agents that are given up between two looks at who may start.
MOST_GIVEN_UP = 100

Start = Callable[[AgentId], None]


async def run_dispatcher(
    store: Store, start: Start, *, clock: Callable[[], datetime], breaker: Breaker | None = None
) -> None:
    """Assign due agents to free slots and call `start` once for each that has one, until cancelled.

    Who waits for something else than a slot (`breaker`, other agents that a crash cut) is passed over.
    """
    started: set[AgentId] = set()
    breaker = breaker or Breaker()
    store.dispatched = lambda repository: not breaker.holds(repository, clock())
    try:
        while True:
            seq = store.state.seq
            _start_assigned(store, start, started)
            await _give_up(store)
            await _fill_slots(store, start, started, clock, breaker)
            with trio.move_on_after(_patience_s(store, breaker, clock())):
                await store.wait_past(seq)
    finally:
        store.dispatched = None


async def _give_up(store: Store) -> None:
    """End those that wait for a task that was not completed: so many, and the next when that is durable."""
    for agent_id, task_id in list(store.waiting.blocked.doomed.items())[:MOST_GIVEN_UP]:
        try:
            await store.submit(AbandonAgent(agent_id, task_id))
        except CommandRefused as refusal:  # cancelled, or its dependency handed over again
            log.debug("agent not given up", extra={"agent_id": agent_id, "detail": refusal.detail})


def _patience_s(store: Store, breaker: Breaker, now: datetime) -> float:
    """Return for how many seconds only an event can bring anybody further."""
    if free_slots(store.state) == 0:  # whose time has come waits for a slot, and that comes with an event
        return math.inf
    moments = [moment for moment in (store.waiting.next_due(), breaker.next_end(now)) if moment]
    return max(0.0, (min(moments) - now).total_seconds()) if moments else math.inf


def _start_assigned(store: Store, start: Start, started: set[AgentId]) -> None:
    """Start who has a slot and was not started yet; forget who needs no remembering."""
    assigned = store.waiting.assigned
    started.intersection_update(assigned)
    for agent_id in [each for each in assigned if each not in started]:
        started.add(agent_id)
        start(agent_id)


async def _fill_slots(
    store: Store,
    start: Start,
    started: set[AgentId],
    clock: Callable[[], datetime],
    breaker: Breaker,
) -> None:
    while free_slots(store.state) > 0:
        agent_id = _choose(store, breaker, clock())
        if agent_id is None:
            return
        try:
            await store.submit(AssignAgent(agent_id))
        except CommandRefused as refusal:  # paused, cancelled or taken since the state was read
            log.debug("agent not assigned", extra={"agent_id": agent_id, "detail": refusal.detail})
            return
        _start_assigned(store, start, started)


def _choose(store: Store, breaker: Breaker, now: datetime) -> AgentId | None:
    """Return who goes next of those to whom nothing but a slot is missing."""
    standings = standings_beside(worst_active(store.waiting.suspects.values()))
    return store.waiting.first_due(now, standings, lambda repository: breaker.holds(repository, now))
