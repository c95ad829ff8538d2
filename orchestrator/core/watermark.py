"""When the host has too little left to start another agent: pure figures and one rule.

Below a watermark nothing more leaves the queue; above it by half, it does again, so that a host at the edge
does not flap. What runs goes on, and kills always work. Called by `supervise.host`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

#: The least that must be left, by what is measured; the unit is in the text that people read.
WATERMARKS: Mapping[str, float] = {"disk": 64, "inodes": 1000, "memory": 128, "pids": 256}
UNITS: Mapping[str, str] = {
    "disk": "MB of disk",
    "inodes": "files on the disk",
    "memory": "MB of memory",
    "pids": "processes",
}
#: Not measured, and a shortage all the same: the orchestrator crashed again and again (`supervise.restarts`).
RESTARTS = "restarts"
#: Whatever can be short.
SHORTAGES = frozenset({*WATERMARKS, RESTARTS})
#: How far above its watermark a figure must come before it counts as enough again.
RECOVERY = 1.5


def shortages(left: Mapping[str, float], before: Collection[str]) -> frozenset[str]:
    """Return what there is too little of; `before` is what was short at the last look.

    `left` holds what could be measured; what is missing there is not short.
    """
    return frozenset(
        part
        for part, least in WATERMARKS.items()
        if left.get(part, float("inf")) < least * (RECOVERY if part in before else 1)
    )


def describe(part: str, left: Mapping[str, float]) -> str:
    """Return what a person is told about a shortage."""
    return f"{left[part]:.0f} {UNITS[part]} left: nothing is started below {WATERMARKS[part]:g}"
