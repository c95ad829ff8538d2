"""The lanes of the waiting line: who goes next of each repository and priority, and whose turn it is.

One `Lanes` holds those who stand alike with regard to crashes. Every change and every look is O(log n),
however many wait; a look passes over held lanes one by one. Kept by `line`, decided by `core.claims`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sortedcontainers import SortedList  # type: ignore[import-untyped]

from orchestrator.core.claims import Claims
from orchestrator.core.model import AgentId

_Lane = tuple[str, int]
#: A lane, by its repository and priority, and a place in it: what queued whom.
Place = tuple[str, int, int, AgentId]


class Entry(NamedTuple):
    """The first of a lane, by the lane's turn; compared in this order."""

    turn: int
    queued_seq: int
    agent_id: AgentId
    repository: str


class Lanes:
    """Those of one standing whose time has come."""

    def __init__(self, claims: Claims, places: Iterable[Place] = ()) -> None:
        self._claims = claims
        lanes = dict[_Lane, list[tuple[int, AgentId]]]()
        for repository, priority, queued_seq, agent_id in places:
            lanes.setdefault((repository, priority), []).append((queued_seq, agent_id))
        self._waiting: dict[_Lane, SortedList[tuple[int, AgentId]]] = {
            lane: SortedList(waiting) for lane, waiting in lanes.items()
        }
        self._entries: dict[_Lane, Entry] = {}
        #: The first of each lane, by priority.
        self._firsts: dict[int, SortedList[Entry]] = {}
        for lane in lanes:
            self.place(*lane)

    def add(self, repository: str, priority: int, queued_seq: int, agent_id: AgentId) -> None:
        """Take in one who waits."""
        lane = (repository, priority)
        self._waiting.setdefault(lane, SortedList()).add((queued_seq, agent_id))
        self.place(repository, priority)

    def remove(self, repository: str, priority: int, queued_seq: int, agent_id: AgentId) -> None:
        """Let go of one."""
        lane = (repository, priority)
        self._waiting[lane].remove((queued_seq, agent_id))
        if not self._waiting[lane]:
            del self._waiting[lane]
        self.place(repository, priority)

    def place(self, repository: str, priority: int) -> None:
        """Put the lane where its first and its turn belong; called when either may have changed."""
        lane = (repository, priority)
        waiting, entry = self._waiting.get(lane), None
        if waiting is not None:
            queued_seq, agent_id = waiting[0]
            turn = self._claims.turn(repository, priority, queued_seq)
            entry = Entry(turn, queued_seq, agent_id, repository)
        before = self._entries.pop(lane, None)
        if before is not None and before != entry:
            self._firsts[priority].remove(before)
            if not self._firsts[priority]:
                del self._firsts[priority]
        if entry is not None:
            self._entries[lane] = entry
            if before != entry:
                self._firsts.setdefault(priority, SortedList()).add(entry)

    def firsts(self, priority: int) -> Iterator[Entry]:
        """Yield the first of each lane of the priority in the order of their turns, as they stand by then."""
        passed = 0
        while passed < len(self._firsts.get(priority, ())):
            entry: Entry = self._firsts[priority][passed]
            yield entry
            # Whoever asked may have taken it out: then another stands in its place.
            passed += self._entries.get((entry.repository, priority)) == entry
