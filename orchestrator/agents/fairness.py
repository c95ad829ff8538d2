"""Whose request is next in a line that all agents share, however many requests each of them makes.

The invariants: of those who wait, who has the fewest requests in flight comes first, and among equals who has
waited longest since its last one went; of one agent's own requests none overtakes another; and no agent holds
all places at the provider, where there are four or more, so that who comes later finds one free. Caller:
`provider`, which has one for each model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

#: The share of the places at a provider that one agent leaves to others.
LEFT_SHARE = 4


def most_of_one(concurrency: int) -> int:
    """Return how many of so many places at the provider one agent may hold."""
    return concurrency - concurrency // LEFT_SHARE


class Fairness(Generic[T]):
    """The requests of a line that wait, by agents, and how many of each agent's are in flight."""

    def __init__(self) -> None:
        #: Agents in the order of their turns, and the requests of each in the order in which they came.
        self._waiting: dict[str, dict[T, None]] = {}
        self._flying: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def stand(self, agent_id: str, request: T) -> None:
        """Let a request wait, behind the others of its agent."""
        self._waiting.setdefault(agent_id, {})[request] = None

    def leave(self, agent_id: str, request: T) -> None:
        """Let a request wait no more, if it does."""
        if own := self._waiting.get(agent_id):
            own.pop(request, None)
            if not own:
                del self._waiting[agent_id]

    def go(self, agent_id: str, request: T) -> None:
        """Let a request go: its agent's next turn comes after that of all others."""
        self.leave(agent_id, request)
        self._flying[agent_id] += 1
        if own := self._waiting.pop(agent_id, None):
            self._waiting[agent_id] = own

    def land(self, agent_id: str) -> None:
        """Take a request of the agent out of flight."""
        self._flying[agent_id] -= 1
        if not self._flying[agent_id]:
            del self._flying[agent_id]

    def first(self, concurrency: int) -> T | None:
        """Return the request that is next, where so many may be in flight; None where nobody's is."""
        most = most_of_one(concurrency)
        able = [agent_id for agent_id in self._waiting if self._flying[agent_id] < most]
        if not able:
            return None
        return next(iter(self._waiting[min(able, key=self._flying.__getitem__)]))
