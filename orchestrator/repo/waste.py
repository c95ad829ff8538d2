"""What of this room's own lies about unused: found and measured first, removed only then.

The invariant: nothing is taken that anybody holds or owns at the moment of its removal, and nothing that
exists nowhere else (a mirror's commits and salvages stay). Called by `repositories`; `mirrors` shares the
knowledge of what a killed git leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sandbox.base import SandboxLaunchFailed
from sandbox.process import run_child

#: How long measuring one thing may take; beyond it, its size is told as 0.
MEASURE_S = 60.0


@dataclass(frozen=True, slots=True)
class Waste:
    """One thing that can go; `name` says where it is, from the state directory on."""

    kind: str
    name: str
    why: str
    paths: tuple[Path, ...]


async def measure(paths: Iterable[Path]) -> int:
    """Return the bytes on the disk of files and directories, links not followed; 0 where that fails."""
    there = [str(path) for path in paths if path.exists() or path.is_symlink()]
    if not there:
        return 0
    try:
        done = await run_child(
            ["du", "-sx", "-B1", "--", *there],
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            deadline_s=MEASURE_S,
        )
    except SandboxLaunchFailed:
        return 0
    sizes = (line.partition(b"\t")[0] for line in done.stdout.splitlines())
    return sum(int(size) for size in sizes if size.isdigit())


def litter(mirror: Path) -> list[Path]:
    """Return what a killed command left in a mirror; only while nobody uses it is it that."""
    patterns = ("*.lock", "objects/pack/tmp_*", "objects/pack/*.keep", "objects/??/tmp_obj_*")
    found = [path for pattern in patterns for path in mirror.glob(pattern)]
    return sorted(found + list((mirror / "refs").rglob("*.lock")))
