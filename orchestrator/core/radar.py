"""Who changes the same files of one repository at the same time, before it comes to a conflict.

Pure: from what is known of each agent's files to the overlaps that were not told yet. Bounded: so many files
of an agent, so many agents of a repository, so many names told. Called by `supervise.radar`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

#: Files of one agent that are looked at, and names of an overlap that are told.
MAX_FILES, MAX_TOLD = 2000, 20
#: Agents of one repository that are remembered; of those who have landed the oldest go first.
MAX_SIGHTINGS = 200


@dataclass(frozen=True, slots=True)
class Sighting:
    """The files that an agent has changed so far; with its `commit` once they are on its branch."""

    agent_id: str
    task_id: str
    branch: str
    files: frozenset[str]
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class Overlap:
    """What one agent has in common with another: all of it, and what of that is told."""

    other: Sighting
    files: frozenset[str]

    @property
    def told(self) -> tuple[str, ...]:
        """The names that are told, in order."""
        return tuple(sorted(self.files)[:MAX_TOLD])


def bounded(files: Iterable[str]) -> frozenset[str]:
    """Return as many of the names as are looked at."""
    return frozenset(sorted(files)[:MAX_FILES])


def find_overlaps(mine: Sighting, others: Iterable[Sighting]) -> list[Overlap]:
    """Return with whom an agent has files in common, those with most first; never with its own task."""
    found = [
        Overlap(other, common)
        for other in others
        if other.task_id != mine.task_id and (common := mine.files & other.files)
    ]
    return sorted(found, key=lambda overlap: (-len(overlap.files), overlap.other.agent_id))


@dataclass(slots=True)
class Field:
    """One repository: who is there, and which overlaps of which pairs were told."""

    sightings: dict[str, Sighting] = field(default_factory=dict)
    _told: dict[frozenset[str], frozenset[str]] = field(default_factory=dict)

    def see(self, mine: Sighting) -> list[Overlap]:
        """Take note of an agent's files; return the overlaps with a file that was not told of the pair."""
        self.sightings.pop(mine.agent_id, None)
        overlaps = find_overlaps(mine, self.sightings.values())
        self.sightings[mine.agent_id] = mine
        self._forget_oldest()
        return [overlap for overlap in overlaps if self._is_news(mine, overlap)]

    def leave(self, agent_id: str, *, commit: str | None) -> None:
        """Let an agent go; where it has landed, its files stay, as those of an open branch."""
        mine = self.sightings.pop(agent_id, None)
        if mine is not None and commit is not None:
            self.sightings[agent_id] = Sighting(agent_id, mine.task_id, mine.branch, mine.files, commit)
        elif mine is not None:
            self._told = {pair: files for pair, files in self._told.items() if agent_id not in pair}

    def forget(self, agents: Collection[str]) -> None:
        """Forget branches that are open no more."""
        for agent_id in agents:
            self.leave(agent_id, commit=None)

    def _is_news(self, mine: Sighting, overlap: Overlap) -> bool:
        pair = frozenset({mine.agent_id, overlap.other.agent_id})
        known = self._told.get(pair, frozenset())
        self._told[pair] = known | overlap.files
        return not overlap.files <= known

    def _forget_oldest(self) -> None:
        landed = [each.agent_id for each in self.sightings.values() if each.commit is not None]
        over = max(0, len(self.sightings) - MAX_SIGHTINGS)
        self.forget(landed[:over])
