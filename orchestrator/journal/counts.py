"""How many tasks there are, by what they are at: the figures of `GET /queue/stats`. Called by `store`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.core.model import State


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tasks there are, by what they are at; `delayed` ones wait for a retry's time."""

    pending: int
    active: int
    completed: int
    failed: int
    delayed: int
    cancelled: int = 0


def count_tasks(state: State, ended: Mapping[str, int], delayed: int) -> Counts:
    """Return the counts, of the live state and of those that ended by their status."""
    return Counts(
        pending=state.queued - delayed,
        active=state.active,
        completed=ended.get("completed", 0),
        failed=ended.get("failed", 0),
        delayed=delayed,
        cancelled=ended.get("cancelled", 0),
    )
