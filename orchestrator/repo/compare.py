"""How two commits of our own repositories differ: which paths, and how.

The invariant: what is read is bounded, and nothing of the repository's (drivers, attributes) runs. Callers:
`quarantine` and `repositories`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.errors import GitFailed
from orchestrator.repo.git import BOUNDED, Extra, Git
from sandbox.base import MIB


@dataclass(frozen=True, slots=True)
class Count:
    """How many lines differ in one file; None where it is no text."""

    path: bytes
    additions: int | None
    deletions: int | None


def checked_commit(text: str) -> str:
    """Return a full commit id; raises `GitFailed` for anything else, which could be an option or a path."""
    if not re.fullmatch(r"[0-9a-f]{40}", text):
        raise GitFailed(f"{text[:80]!r} is not a full commit id")
    return text


async def read_diff(
    git: Git,
    base: str,
    commit: str,
    *,
    max_bytes: int,
    paths: tuple[str, ...] = (),
    context: int = 3,
    text: bool = False,
) -> bytes:
    """Return the change between two commits as a patch, cut with a mark at `max_bytes`.

    `text` shows what git takes for binary, too: one NUL makes it of any file.
    """
    patch, cut = await git.read_start(
        *("diff-tree", "-r", "-p", "--no-color", "--no-renames", "--no-ext-diff", "--no-textconv"),
        *("--ignore-submodules=all", "--full-index", f"--unified={context}", *(("--text",) if text else ())),
        *(base, commit, "--", *paths),
        max_bytes=max_bytes,
        extra=Extra(prefix=BOUNDED),
    )
    return patch + b"\n[cut here: the diff is longer than %d bytes]\n" % max_bytes if cut else patch


async def read_changed(git: Git, base: str, commit: str) -> tuple[str, ...]:
    """Return the paths that differ between two commits."""
    told = await _compare(git, "--name-only", base, commit)
    return tuple(path.decode(errors="surrogateescape") for path in told.split(b"\0") if path)


async def read_numstat(git: Git, base: str, commit: str) -> list[Count]:
    """Return how many lines differ in each file of two commits."""
    told = await _compare(git, "--numstat", base, commit)
    rows = [row.split(b"\t", 2) for row in told.split(b"\0") if row.count(b"\t") >= 2]
    return [Count(path, _number(added), _number(gone)) for added, gone, path in rows]


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() else None


async def _compare(git: Git, shape: str, base: str, commit: str) -> bytes:
    return await git.run(
        *("diff-tree", "-r", "-z", shape, "--no-renames", "--no-ext-diff", "--no-textconv"),
        *("--ignore-submodules=all", base, commit, "--"),
        max_bytes=64 * MIB,
        extra=Extra(prefix=BOUNDED),
    )
