"""What a set-up made, below the files of a room, exchanged for what another one made.

The invariant: no process of the agent's is alive meanwhile, nothing is followed that it wrote, and nothing of
its work goes: what lies in a set-up's places is no part of that. Done twice, it comes to the same. Called by
`worktree`, where the work is brought onto a base that asks for another set-up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import trio

from orchestrator.repo.bare import PrivateGit
from orchestrator.repo.origin import Origin
from orchestrator.repo.removal import remove_below
from orchestrator.repo.setups import name_of
from orchestrator.repo.tenancy import keep_setup, kept_setup
from orchestrator.repo.workspace import copy_files, open_up
from sandbox.base import Directory, Layers


async def exchange(
    workspace: Layers | Directory, quarantine: Path, origin: Origin, git: PrivateGit
) -> Layers | Directory:
    """Return the workspace on what the origin's set-up made, in the place of what the room stood on last.

    What the agent wrote in the places of either goes: it was made for the other one, and would hide this.
    """
    before, made = kept_setup(quarantine)
    now = name_of(origin.made_at.parent) if origin.made_at else ""
    if now == before:
        return workspace
    workspace = await _exchange(workspace, (*made, *origin.made), origin, git)
    keep_setup(quarantine, now, origin.made)
    return workspace


async def _exchange(
    workspace: Layers | Directory, roots: Iterable[str], origin: Origin, git: PrivateGit
) -> Layers | Directory:
    open_up(workspace)
    top = workspace.upper if isinstance(workspace, Layers) else workspace.path
    await trio.to_thread.run_sync(_clear, top, tuple(dict.fromkeys(roots)))
    if isinstance(workspace, Layers):
        cover = workspace.cover and origin.shared.git_cover(git, origin.user)
        return replace(workspace, cover=cover, below=origin.made_at)
    if origin.made_at is not None:
        await copy_files(origin.made_at, workspace.path, origin.user)
    return workspace


def _clear(top: Path, roots: tuple[str, ...]) -> None:
    for root in roots:
        remove_below(top, root.rstrip("/"))
        trio.from_thread.check_cancelled()
