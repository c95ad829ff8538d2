"""The steps that events take from one state to the next, numbered and chained (J3). Called by `store`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime

from orchestrator.core.events import Event
from orchestrator.core.machine import evolve, prune
from orchestrator.core.model import State
from orchestrator.journal.encoding import Redacted, as_it_is, write_event
from orchestrator.journal.group import Step
from orchestrator.journal.verify import Heads


def take_steps(  # noqa: PLR0917 - the events, where they start from, and what they are given
    events: Iterable[Event],
    state: State,
    heads: Heads,
    now: datetime,
    new_id: Callable[[], str],
    redacted: Redacted = as_it_is,
) -> tuple[list[Step], State, Heads]:
    """Return the steps, and the state and the ends of the chains after the last of them.

    Raises `IllegalTransition` for an event that does not follow.
    """
    steps: list[Step] = []
    digest = heads.hash
    for event in events:
        recorded, row = write_event(state.seq + 1, new_id(), now, event, digest, redacted)
        after = evolve(state, recorded)
        steps.append(Step(recorded, row, state, after))
        state, digest = prune(after, recorded.event), recorded.hash
    return steps, state, replace(heads, seq=state.seq, hash=digest)
