"""The work of ended agents that could not be salvaged yet: who is tried again when, and given up when.

Invariant: nothing unsalvaged is removed before it was tried again and again for `KEEP`; only where all of it
takes more room than `MAX_BYTES`, the oldest goes earlier. What is remembered here is forgotten at a restart,
and tried again then. Called by `reaper`; `garbage` tells of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.core.model import Agent, AgentId

#: How long after an agent's end its work is tried to be kept, and how much may wait for that.
KEEP = timedelta(hours=24)
MAX_BYTES = 8 * 2**30
#: Between two tries, at first and at most.
FIRST_S = 50.0
LONGEST_S = 3600.0
#: What was short of room when it failed is tried anew as soon as so much more of that is there: a salvage
#: takes several times what is salvaged.
MORE_BYTES = 32 * 2**20
AMPLE_BYTES, AMPLE_TIMES = 512 * 2**20, 8


@dataclass(slots=True)
class Waiting:
    """One agent's work; `why` says why it could not be salvaged the last time."""

    why: str
    ended: datetime
    bytes: int
    tries: int
    #: On the monotonic clock: not before.
    again: float
    #: How much room there was on the disk when it failed.
    free: int


class Backlog:
    """What waits to be salvaged."""

    def __init__(self) -> None:
        self._waiting: dict[AgentId, Waiting] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def is_due(self, agent_id: AgentId, now: float, free: int) -> bool:
        """Return whether an agent's work is to be tried now; `now` is of the monotonic clock."""
        waiting = self._waiting.get(agent_id)
        if waiting is None or waiting.again <= now:
            return True
        was_short = waiting.free < AMPLE_BYTES + AMPLE_TIMES * waiting.bytes
        return was_short and free >= waiting.free + MORE_BYTES

    def tell(self) -> str:
        """Return in words what waits, and why the first of it does."""
        first = next(iter(self._waiting.values()), None)
        return f"work of {len(self._waiting)} ended agents waits to be kept: {first.why if first else ''}"[
            :1000
        ]

    def put(self, agent: Agent, why: str, size: int, *, now: float, today: datetime, free: int) -> str | None:
        """Note that it failed; return why it is given up, or None where it is tried again."""
        before = self._waiting.get(agent.id)
        tries = before.tries + 1 if before else 1
        pause_s = min(LONGEST_S, FIRST_S * 2.0 ** min(tries - 1, 10))
        ended = agent.completed_at or today
        self._waiting[agent.id] = Waiting(why, ended, size, tries, now + pause_s, free)
        if today - ended >= KEEP:
            return f"given up {KEEP.total_seconds() / 3600:g} h after its end"
        total = sum(waiting.bytes for waiting in self._waiting.values())
        if total > MAX_BYTES and ended == min(waiting.ended for waiting in self._waiting.values()):
            return f"given up: what waits to be salvaged takes {total} bytes, more than {MAX_BYTES}"
        return None

    def drop(self, agent_id: AgentId) -> None:
        """Forget an agent whose work was salvaged, or given up."""
        self._waiting.pop(agent_id, None)

    def find(self, agent_id: AgentId) -> Waiting | None:
        """Return what is known of an agent's work, if it waits."""
        return self._waiting.get(agent_id)
