"""Bring an agent's files from one tree to another, and its own repository to the commit that they belong to.

The invariant: git runs on what the agent wrote in a sandbox only, and the files are moved by a repository of
ours; done twice, it comes to the same. Called by `worktree`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.errors import GitFailed
from orchestrator.repo.bare import MADE_MARK, write_private_git
from orchestrator.repo.inside import MOVE, Claim, run_script, script_spec
from orchestrator.repo.origin import Origin
from orchestrator.repo.quarantine import QUARANTINE_AT, Quarantine
from orchestrator.repo.tenancy import Tenancy
from sandbox.base import Backend, Bind, Spec

#: Of the deadline, what the agent's own repository may use up before ours takes its place.
_FIRST_SHARE = 0.6
_FRESH_AT = "/fresh.git"


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is done: the room, its quarantine, and a sandbox on the workspace that has no command yet."""

    room: Path
    quarantine: Quarantine
    origin: Origin
    backend: Backend
    spec: Spec


async def move_files(place: Place, tenancy: Tenancy, *, deadline_s: float) -> None:
    """Do the move that the tenancy names; raises `GitFailed` where that cannot be done."""
    claim = await _move_once(place, tenancy, deadline_s * _FIRST_SHARE, replaced="")
    if claim.word != "done":  # the agent's own repository is of no use, or does not end
        claim = await _move_once(place, tenancy, deadline_s, replaced="yes")
    if claim.word != "done":
        raise GitFailed(f"the agent's files could not be brought onto {tenancy.base}: {claim.detail}")


async def _move_once(place: Place, tenancy: Tenancy, deadline_s: float, *, replaced: str) -> Claim:
    backend, origin, quarantine = place.backend, place.origin, place.quarantine
    begun, tree = tenancy.moving
    objects = (*place.spec.binds, Bind(quarantine.directory / "objects", QUARANTINE_AT))
    alternates = tuple(backend.seen(bind.source, bind.target) for bind in objects)
    git = place.room / f"rescue-{secrets.token_hex(8)}"
    write_private_git(git, origin.private_git(alternates), origin.user)
    env = {
        **origin.identity.environment(),
        "FRESH": backend.seen(git, _FRESH_AT),
        "FROM": begun,
        "TREE": tree,
        "ONTO": tenancy.base,
        "BRANCH": tenancy.branch,
        "OBJECTS": alternates[0],
        "REPLACE": replaced,
        "MADE": MADE_MARK,
    }
    binds = (*objects, quarantine.cover_alternates(), Bind(git, _FRESH_AT, writable=True))
    spec, mark = script_spec(replace(place.spec, binds=binds), MOVE, env)
    return await run_script(backend, spec, mark, deadline_s=deadline_s)
