"""What an agent may use at most, where the kernel does not see to it: pure figures and two rules.

The first finds a sandbox that is beyond a ceiling of its own. The second names, on a host whose memory is all
but gone, the agent that has to go lest the kernel choose. Both name figures, for people. Called by
`supervise.watchdog`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.core.model import Reason
from orchestrator.core.watermark import WATERMARKS

#: What is measured, the ceiling that it belongs to, and the words for people; in the order of judgement.
MEASURES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "memory_mb": ("memory_mb", "MB of memory"),
        "pids": ("pids", "processes"),
        "disk_mb": ("disk_mb", "MB of disk"),
        "files": ("disk_mb", "files"),
        "depth": ("disk_mb", "directories inside one another"),
    }
)
#: Files that may be made for each MB of disk: as many as a file system could give their least room to.
FILES_PER_MB = 256
#: So many at least: where there are no overlays, a checkout of the repository counts too.
MIN_FILES = 65_536
#: Directories inside one another that are measured; no candidate may be deeper.
MAX_DEPTH = 100
#: MB of the host's memory below which the largest agent is ended; half of what stops the admission.
HARD_MARK_MB = WATERMARKS["memory"] / 2


@dataclass(frozen=True, slots=True)
class Excess:
    """One ceiling that was passed: what of (a key of `MEASURES`), what is used, and what may be."""

    measure: str
    used: float
    ceiling: float

    @property
    def of_memory(self) -> bool:
        """Whether this is the end that the kernel's own memory ceiling would have brought."""
        return self.measure == "memory_mb"

    def __str__(self) -> str:
        what = MEASURES[self.measure][1]
        return f"it used {self.used:.0f} {what}, and {self.ceiling:.0f} are allowed"


def beyond_ceiling(*, oom: bool) -> Reason:
    """Return why an agent failed whose program was ended for what it used.

    Disk and processes are an allowance of its task, as tokens are: an agent that used them up is
    `budget_exceeded`, and no retry has more of them.
    """
    return Reason.OOM if oom else Reason.BUDGET_EXCEEDED


def file_ceiling(disk_mb: int) -> int:
    """Return how many files an agent of so much disk may make."""
    return max(MIN_FILES, disk_mb * FILES_PER_MB)


def find_excess(
    used: Mapping[str, float], ceilings: Mapping[str, float | None], watched: Collection[str]
) -> Excess | None:
    """Return the first ceiling that is passed, of those which are only watched.

    `used` has keys of `MEASURES`; what was not measured is not judged, and a ceiling of None is none.
    """
    for measure, (limit, _) in MEASURES.items():
        ceiling = ceilings.get(measure)
        if limit in watched and ceiling is not None and used.get(measure, 0) > ceiling:
            return Excess(measure, used[measure], ceiling)
    return None


def find_victim(left_mb: float, used_mb: Mapping[str, float]) -> str | None:
    """Return the agent to end, for the host's sake: the largest, where memory is all but gone.

    The largest of all has at least its fair share. One that holds less than the mark itself helps nobody by
    its end: the memory is somewhere else then, and the host's watermark has stopped the admission.
    """
    if left_mb >= HARD_MARK_MB or not used_mb:
        return None
    victim = max(sorted(used_mb), key=lambda agent: used_mb[agent])
    return victim if used_mb[victim] >= HARD_MARK_MB else None


def describe_pressure(left_mb: float, used_mb: float) -> str:
    """Return why `find_victim` named this agent, for people."""
    return (
        f"ended for want of memory: the host has {left_mb:.0f} MB left, less than {HARD_MARK_MB:.0f}, "
        f"and this agent used most of all, {used_mb:.0f} MB"
    )
