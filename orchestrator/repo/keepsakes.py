"""The refs of all mirrors that keep what agents have not landed: found, looked into, dropped.

The invariant: a ref goes only where it still is at the commit that was seen. Called by `repositories`.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.core.text import escaped
from orchestrator.repo.bare import SALVAGE, salvage_ref
from orchestrator.repo.compare import read_numstat
from orchestrator.repo.git import Git

_AGENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MIRROR = re.compile(r"[0-9a-f]{64}")
#: Files of one that are told.
MAX_FILES = 1000


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one agent, in which mirror, since when."""

    agent_id: str
    mirror: Path
    commit: str
    at: datetime

    @property
    def ref(self) -> str:
        """The ref that keeps it."""
        return salvage_ref(self.agent_id)


@dataclass(frozen=True, slots=True)
class Change:
    """A file that it changes; no counts for what is no text."""

    path: str
    additions: int | None
    deletions: int | None


def find_all(mirrors: Path) -> list[Kept]:
    """Return all that is kept, the newest first."""
    found = []
    for mirror in mirrors.iterdir():
        if not _MIRROR.fullmatch(mirror.name):
            continue
        with suppress(FileNotFoundError), os.scandir(mirror / SALVAGE) as entries:
            found += [kept for entry in entries if (kept := _read(mirror, entry.name))]
    return sorted(found, key=lambda kept: (kept.at, kept.agent_id), reverse=True)


def find(mirrors: Path, agent_id: str) -> Kept | None:
    """Return what is kept of one agent, or None."""
    if not _AGENT.fullmatch(agent_id):
        return None
    places = [mirror for mirror in mirrors.iterdir() if _MIRROR.fullmatch(mirror.name)]
    return next((kept for mirror in places if (kept := _read(mirror, agent_id))), None)


def _read(mirror: Path, agent_id: str) -> Kept | None:
    path = mirror / salvage_ref(agent_id)
    if not _AGENT.fullmatch(agent_id):
        return None
    try:
        commit = path.read_text("ascii").strip()
        at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, ValueError):  # gone meanwhile, or no ref of ours
        return None
    return Kept(agent_id, mirror, commit, at) if _COMMIT.fullmatch(commit) else None


async def base_of(kept: Kept, base: str | None) -> str:
    """Return the commit that the work is a change of: where it left `base`, else its own parent."""
    git = Git(kept.mirror)
    if base is not None:
        done = await git.attempt("merge-base", base, kept.commit)
        if done.exit.ok:
            return done.stdout.decode().split()[0]
    return (await git.run("rev-parse", "--verify", f"{kept.commit}^")).decode().strip()


async def changes(kept: Kept, base: str) -> tuple[list[Change], int]:
    """Return the files that it changes, and how many more there are."""
    counts = await read_numstat(Git(kept.mirror), base, kept.commit)
    told = [Change(_shown(each.path), each.additions, each.deletions) for each in counts[:MAX_FILES]]
    return told, len(counts) - len(told)


async def drop(kept: Kept) -> bool:
    """Keep it no more; return whether it was still as it was seen."""
    done = await Git(kept.mirror).attempt("update-ref", "-d", kept.ref, kept.commit)
    return done.exit.ok


def _shown(name: bytes) -> str:
    return escaped(name.decode(errors="replace"))[:1024]
