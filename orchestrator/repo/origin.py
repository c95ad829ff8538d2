"""What a worktree and its quarantine stand on: a checkout's files, a set-up's, and the objects beside them.

The invariant: nothing of it can be written by an agent. Made by `repositories`; the set-up's part is another
where the work is judged on, or brought onto, a base that asks for another. Callers: `worktree`, `quarantine`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.repo.bare import Identity, PrivateGit
from orchestrator.repo.checkouts import SharedCheckout
from orchestrator.repo.setups import SetupLayer
from sandbox.base import User


@dataclass(frozen=True, slots=True)
class Origin:
    """The commit that was checked out, its objects and files, the set-up's files, and who commits."""

    commit: str
    objects: Path
    shared: SharedCheckout
    identity: Identity
    user: User
    layered: bool
    #: The files of the repository's set-up; the names that it made, also where the files are not at hand.
    made_at: Path | None = None
    made: tuple[str, ...] = ()

    def on(self, layer: SetupLayer | None) -> Origin:
        """Return the same with what another set-up made."""
        return replace(self, made_at=layer.tree if layer else None, made=layer.roots if layer else ())

    def private_git(self, alternates: tuple[str, ...], branch: str = "") -> PrivateGit:
        """Return the content of a `.git` at the base commit that reads these objects."""
        return PrivateGit(self.commit, self.shared.index, alternates, self.identity, branch, self.made)

    def private_git_at(self, commit: str, alternates: tuple[str, ...]) -> PrivateGit:
        """Return the content of a `.git` at another commit, whose files are still the base's."""
        return PrivateGit(commit, self.shared.index, alternates, self.identity, made=self.made)
