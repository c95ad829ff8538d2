"""The order by which an agent's work is collected: run in a sandbox on its worktree, on nothing of the host.

The invariant: what the order reads of ours is bound read-only, but for a repository of our own making, by
which the files alone are taken where the agent's is of no use. Called by `worktree`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.repo.bare import write_private_git
from orchestrator.repo.base import Base
from orchestrator.repo.inside import COLLECT, script_spec
from orchestrator.repo.origin import Origin
from orchestrator.repo.quarantine import MIRROR_AT
from orchestrator.repo.removal import open_ways, remove_tree
from sandbox.base import Backend, Bind, Spec

_RESCUE_AT = "/rescue.git"
#: What begins the name of a repository of ours in the room, by which the files alone are collected.
_RESCUE = "rescue-"


@dataclass(frozen=True, slots=True)
class Collector:
    """What a worktree works with: by which sandboxes, on what, for whom, and where."""

    backend: Backend
    origin: Origin
    label: str
    room: Path

    def order(
        self, base: Base, spec: Spec, message: str, ref: str, fd: int, *, rescue: bool
    ) -> tuple[Spec, str]:
        """Return the program that pushes the work in a workspace to a ref by a descriptor, and its mark."""
        fresh = ""
        if rescue:
            git = self.room / f"{_RESCUE}{secrets.token_hex(8)}"
            alternates = (self.backend.seen(base.mirror.objects, MIRROR_AT),)
            write_private_git(git, self.origin.private_git_at(base.commit, alternates), self.origin.user)
            spec = replace(spec, binds=(*spec.binds, Bind(git, _RESCUE_AT, writable=True)))
            fresh = self.backend.seen(git, _RESCUE_AT)
        env = {
            **self.origin.identity.environment(),
            "BASE": base.commit,
            "MESSAGE": message,
            "FRESH": fresh,
            "REF": ref,
            "FD": str(fd),
        }
        return script_spec(replace(spec, pass_fds=(fd,)), COLLECT, env)

    async def drop_rescues(self) -> None:
        """Remove what earlier tries collected the files by: it takes as much room as they do."""
        open_ways(self.room.parent, self.room.name)
        for path in self.room.glob(f"{_RESCUE}*"):
            await remove_tree(path)
