"""The waiting line: the queued agents of the committed state, indexed so that choosing is O(log n).

Derived and never stored: the store updates it with every commit, from the agents that the commit touched, and
rebuilds it at start. Two sorted lists: those whose time has come, by priority and age, and those whose
backoff still runs, by its end; and beside them those who have just left it for a slot. The dispatcher and the
API's queue positions read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from sortedcontainers import SortedList  # type: ignore[import-untyped]

from orchestrator.core.model import Agent, AgentId, Phase
from orchestrator.core.policy import has_come, order_key

_Place = tuple[int, int, AgentId]
_Delay = tuple[datetime, int, int, AgentId]


def queued(agent: Agent | None) -> bool:
    """Return whether the agent waits in the queue."""
    return agent is not None and agent.phase is Phase.QUEUED and agent.live


class WaitingLine:
    """The queued agents, in the order in which they go."""

    def __init__(self, agents: Iterable[Agent] = ()) -> None:
        self._due: SortedList[_Place] = SortedList()
        self._delayed: SortedList[_Delay] = SortedList()
        self._entries: dict[AgentId, _Place | _Delay] = {}
        #: When each that was let into the line after a backoff may go: the clock may yet be set back.
        self._not_before: dict[AgentId, datetime] = {}
        #: Who has a slot and has begun nothing yet, in the order in which they got it.
        self.assigned: dict[AgentId, None] = {}
        for agent in agents:
            self.update(agent.id, agent)

    def __len__(self) -> int:
        return len(self._entries)

    def update(self, agent_id: AgentId, agent: Agent | None) -> None:
        """Put the agent where it belongs now: in the line, or out of it."""
        self._remove(agent_id)
        if agent is not None and queued(agent):
            place = (*order_key(agent), agent.id)
            self._add(place if agent.not_before is None else (agent.not_before, *place))
        if agent is not None and agent.live and agent.phase is Phase.PREPARING:
            self.assigned[agent_id] = None
        else:
            self.assigned.pop(agent_id, None)

    def first_due(
        self, now: datetime, may: Callable[[AgentId], bool] = lambda _agent_id: True
    ) -> AgentId | None:
        """Return who goes next of those who `may`, or None where nobody's time has come."""
        for end in (0, -1):  # at the end: of a clock that was set back since
            while self._delayed and has_come(self._delayed[end][0], now):
                not_before, priority, queued_seq, agent_id = self._delayed.pop(end)
                self._not_before[agent_id] = not_before
                self._add((priority, queued_seq, agent_id))
        passed = 0
        while passed < len(self._due):
            place: _Place = self._due[passed]
            if not has_come(self._not_before.get(place[2], now), now):
                del self._due[passed]
                self._add((self._not_before.pop(place[2]), *place))
            elif may(place[2]):
                return place[2]
            else:
                passed += 1
        return None

    def next_due(self) -> datetime | None:
        """Return when the first of those whose backoff still runs may go."""
        return self._delayed[0][0] if self._delayed else None

    def delayed(self, now: datetime) -> int:
        """Return how many wait for the end of a backoff."""
        self.first_due(now)
        return len(self._delayed)

    def rank(self, agent_id: AgentId) -> int | None:
        """Return the agent's place in the line, 1 for the next, or None where it does not wait."""
        entry = self._entries.get(agent_id)
        if entry is None:
            return None
        if len(entry) == 3:
            return int(self._due.index(entry)) + 1
        return len(self._due) + int(self._delayed.index(entry)) + 1

    def ahead(self, priority: int, queued_seq: int) -> int:
        """Return how many would go before an agent that is queued by this event."""
        return int(self._due.bisect_left((-priority, queued_seq, "")))

    def _add(self, entry: _Place | _Delay) -> None:
        self._entries[entry[-1]] = entry
        (self._due if len(entry) == 3 else self._delayed).add(entry)

    def _remove(self, agent_id: AgentId) -> None:
        self._not_before.pop(agent_id, None)
        entry = self._entries.pop(agent_id, None)
        if entry is not None:
            (self._due if len(entry) == 3 else self._delayed).remove(entry)
