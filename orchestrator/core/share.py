"""How much of what a branch adds to its target agents wrote (ORCH-116).

Pure. The invariant: each line that is added and still there is counted once, for whoever last wrote it: an
agent where its commit bears an agent's trailer, which every commit of ours does and a squash of it keeps,
else a person. So with a candidate that is one commit over its target, all of its lines are an agent's.
Callers: `repo.share`, which reads the history, `supervise.judging`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

#: The trailers that the commits of agents bear.
TRAILERS = ("Agent-Id", "Agent")
#: Of `git blame --incremental`: whose a group of lines is, and how many they are.
_GROUP = re.compile(rb"([0-9a-f]{40}) \d{1,9} \d{1,9} (\d{1,9})")


@dataclass(frozen=True, slots=True)
class Share:
    """Lines that a branch adds to its target, and those of them that agents wrote."""

    agent_lines: int
    lines: int

    @property
    def value(self) -> float:
        """The part, 0.0 to 1.0; 0.0 where nothing is added, as then none of it is an agent's."""
        return self.agent_lines / self.lines if self.lines else 0.0

    def __str__(self) -> str:
        if not self.lines:
            return "it adds nothing that anybody could have written"
        return f"agents wrote {self.agent_lines} of the {self.lines} lines that it adds ({self.value:.0%})"


def allowed(share: Share | float | str, most: float) -> bool:
    """Return whether a share keeps to a ceiling; one that is not known only to that which all keep to."""
    if isinstance(share, str):
        return most >= 1.0
    return (share.value if isinstance(share, Share) else share) <= most


def binaries_among(numstat: bytes) -> int:
    """Return how many binary files there are in `git diff-tree -z --numstat`."""
    return sum(record.startswith(b"-\t-\t") for record in numstat.split(b"\0"))


def agents_among(log: bytes) -> frozenset[str]:
    """Return the commits of agents among those of a log: of each its id, a tab, its trailers, and a NUL."""
    records = (record.strip(b"\n").partition(b"\t") for record in log.split(b"\0"))
    return frozenset(commit.decode() for commit, _, trailers in records if trailers.strip(b"\t,\n "))


def count(blames: Iterable[bytes], agents: Collection[str]) -> Share:
    """Return the share, from what `git blame --incremental` says of each file that is changed.

    What a `boundary` wrote was there before.
    """
    lines: Counter[bool] = Counter()
    for blame in blames:
        for commit, number in _groups(blame):
            lines[commit in agents] += number
    return Share(lines[True], lines.total())


def _groups(blame: bytes) -> Iterable[tuple[str, int]]:
    """Yield who wrote how many lines in one place, for what is no older than the branch."""
    boundaries: set[bytes] = set()
    found: list[tuple[bytes, int]] = []
    for line in blame.split(b"\n"):
        if group := _GROUP.fullmatch(line):
            found.append((group[1], int(group[2])))
        elif line == b"boundary" and found:
            boundaries.add(found[-1][0])
    return [(commit.decode(), number) for commit, number in found if commit not in boundaries]
