"""Whose turn it is: what the latest claims say of priorities that wait, and of repositories that share one.

A *claim* is a task that got a slot. Two promises follow from the latest of them, and hold at any rate of
work:

- **Nothing starves.** Higher priority goes first, but where `PATIENCE` tasks of higher priorities were taken
  for each level that a priority lies below the highest, one of it is overdue and goes next: a task of
  priority 1 after 90 such, of 5 after 50, of 9 after 10.
- **Nobody's crowd holds back another.** The tasks of one repository and priority are a *lane*; lanes of one
  priority take turns. A lane's turn is its last claim, or its first task's place in the journal where that is
  later: so a lane that is new stands behind those who have not had their turn, and before those who have.

Pure, and without a clock: places are the journal's numbers, so that a clock that is set changes nothing. The
waiting line asks it, and tells it of every claim.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

HIGHEST = 10
#: Claims of higher priorities that a priority lets pass, for each level that it lies below the highest.
PATIENCE = 10
#: Claims that are remembered. Whose last one lies further back has its turn before all who are.
REMEMBERED = 1000


class Claim(NamedTuple):
    """A task of this repository and priority got a slot by this event."""

    seq: int
    repository: str
    priority: int


class Claims:
    """The latest claims, taken in in the order of the journal; every answer is O(1)."""

    def __init__(self) -> None:
        self._latest: deque[Claim] = deque()
        self._of_lanes: dict[tuple[str, int], int] = {}
        self._of_priorities = dict.fromkeys(range(1, HIGHEST + 1), 0)
        #: Of the priorities below the highest, the last claims of higher ones, as many as it lets pass.
        self._above = {level: deque[int](maxlen=patience(level)) for level in range(1, HIGHEST)}

    def add(self, claim: Claim) -> None:
        """Take in the next claim."""
        self._latest.append(claim)
        self._of_lanes[claim.repository, claim.priority] = claim.seq
        self._of_priorities[claim.priority] = claim.seq
        for level in range(1, claim.priority):
            self._above[level].append(claim.seq)
        if len(self._latest) > REMEMBERED:
            seq, repository, priority = self._latest.popleft()
            if self._of_lanes.get((repository, priority)) == seq:
                del self._of_lanes[repository, priority]

    def waits_since(self, priority: int, oldest: int) -> int:
        """Return since which event nobody of the priority was taken; `oldest` queued its first who waits."""
        return max(oldest, self._of_priorities[priority])

    def overdue(self, priority: int, oldest: int) -> bool:
        """Return whether so many of higher priorities were taken that one of this goes next."""
        above = self._above.get(priority)
        if above is None or len(above) < patience(priority):
            return False
        return above[0] > self.waits_since(priority, oldest)

    def turn(self, repository: str, priority: int, first: int) -> int:
        """Return the lane's turn, the least of which goes next; `first` queued its first who waits."""
        return max(first, self._of_lanes.get((repository, priority), 0))


def patience(priority: int) -> int:
    """Return how many of higher priorities may be taken in a row before one of this."""
    return PATIENCE * (HIGHEST - priority)
