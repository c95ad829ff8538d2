"""Shared checkouts: the files of a commit, written once and read by every agent and gate that starts from it.

The invariant: a checkout appears under its name only when it is complete, is never written again, and is not
removed while anybody holds it. Callers: `worktree` and `quarantine`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from orchestrator.errors import GitFailed
from orchestrator.repo.bare import PrivateGit, make_directory, write_private_git
from orchestrator.repo.git import REMOTE_S, Extra
from orchestrator.repo.mirrors import Mirror
from orchestrator.repo.removal import remove_tree
from orchestrator.repo.single_flight import Flights
from sandbox.base import User

#: Checkouts of one remote that nobody holds are kept up to this number, the newest.
KEEP = 8
#: How long removing a half made one may hold a cancellation up; what is left then goes at the next start.
REMOVE_S = 10.0
#: Part of a cover's name: one of another make is not used.
_COVER_VERSION = 2
_HALF, _OLD = "making-", "old-"


@dataclass(frozen=True, slots=True)
class SharedCheckout:
    """The files of a commit and the index that belongs to them; both read-only from now on."""

    tree: Path
    index: Path

    def git_cover(self, content: PrivateGit, owner: User) -> Path:
        """Return a directory with a `.git` of this content, to lie over the files; made when first asked for.

        It is the same for every branch: that one's name is not in it.
        """
        key = repr((_COVER_VERSION, content.commit, content.alternates, content.identity, content.made))
        place = self.tree.with_name(f"git-{hashlib.sha256(key.encode()).hexdigest()[:32]}")
        if not place.exists():
            half = place.with_name(f"{_HALF}{secrets.token_hex(8)}")
            try:
                make_directory(half, 0o755, owner)
                write_private_git(half / ".git", replace(content, branch=""), owner, link_index=True)
                half.rename(place)
            except BaseException:
                shutil.rmtree(half, ignore_errors=True)  # a dozen small files
                raise
        return place


class Checkouts:
    """All shared checkouts of this state directory."""

    def __init__(self, root: Path, user: User) -> None:
        self._root = root
        self._user = user
        self._holders: Counter[Path] = Counter()
        self._makers: Flights[Path, None] = Flights()
        #: Half made or half removed, by a call that is still at it.
        self._busy: set[Path] = set()

    @asynccontextmanager
    async def hold(self, mirror: Mirror, commit: str) -> AsyncGenerator[SharedCheckout, None]:
        """Give the checkout of a commit, made now if it is not there; it stays as long as the block."""
        place = self._root / mirror.directory.name / commit
        self._holders[place] += 1
        try:
            if not place.exists():
                await self._make_once(place, mirror, commit)
            os.utime(place)  # the newest are kept
            yield SharedCheckout(place / "tree", place / "index")
        finally:
            self._holders[place] -= 1
            if not self._holders[place]:
                del self._holders[place]
        await self.prune(place.parent)

    async def _make_once(self, place: Path, mirror: Mirror, commit: str) -> None:
        async def work() -> None:
            if not place.exists():  # noqa: ASYNC240 - a stat on the local disk
                await self._make(place, mirror, commit)

        await self._makers.get(place, work)

    async def _make(self, place: Path, mirror: Mirror, commit: str) -> None:
        make_directory(place.parent, 0o711)
        half = place.parent / f"{_HALF}{secrets.token_hex(8)}"
        half.mkdir()
        self._busy.add(half)
        try:
            await self._fill(half, mirror, commit)
            half.rename(place)
        finally:
            with trio.move_on_after(REMOVE_S, shield=True):
                await remove_tree(half)  # nothing, where it became the checkout
            self._busy.discard(half)

    async def _fill(self, half: Path, mirror: Mirror, commit: str) -> None:
        make_directory(half, 0o700, self._user)
        make_directory(half / "tree", 0o755, self._user)
        index = str(half / "index")
        user = self._user if os.geteuid() == 0 else None
        # As the user that agents run as: an overlay can copy up only what belongs to a mapped user.
        extra = Extra({"GIT_INDEX_FILE": index, "GIT_WORK_TREE": str(half / "tree")}, user=user)
        with mirror.hold():
            await mirror.git.run("read-tree", "--reset", "-u", commit, deadline_s=REMOTE_S, extra=extra)
        if not (half / "index").exists():
            raise GitFailed(f"git checked {commit} out and wrote no index")

    def idle(self, commits: Collection[str]) -> list[Path]:
        """Return the checkouts that nobody holds, but of these commits; and what is half made or removed."""
        places = [path for mirror in self._root.iterdir() for path in mirror.iterdir()]
        return sorted(
            path
            for path in places
            if path not in self._holders and path not in self._busy and path.name not in commits
        )

    async def drop(self, place: Path) -> bool:
        """Remove one that is still idle; return whether it was."""
        if place in self._holders or place in self._busy or not place.exists():  # noqa: ASYNC240 - local
            return False
        old = place.with_name(f"{_OLD}{secrets.token_hex(8)}")
        place.rename(old)  # noqa: ASYNC240 - as above
        self._busy.add(old)
        try:
            await remove_tree(old)
        finally:
            self._busy.discard(old)
        return True

    async def sweep(self) -> None:
        """Remove what a crash left half made, of every remote."""
        for place in [path for path in self._root.iterdir() if path.is_dir()]:
            await self.prune(place)

    async def prune(self, place: Path) -> None:
        """Remove what a crash or a cancellation left, and the oldest that nobody holds beyond `KEEP`."""
        retired = self._retire(place)
        self._busy.update(retired)  # all of them at once: another call must not come to one that waits here
        try:
            for path in retired:
                await remove_tree(path)
        finally:
            self._busy.difference_update(retired)

    def _retire(self, place: Path) -> list[Path]:
        """Rename what has to go, so that nobody can come to hold it; return the new names."""
        found = list(place.iterdir())
        retired = [path for path in found if path.name.startswith((_HALF, _OLD)) and path not in self._busy]
        whole = [path for path in found if not path.name.startswith((_HALF, _OLD))]
        idle = [path for path in whole if path not in self._holders]
        idle.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in idle[KEEP:]:
            old = path.with_name(f"{_OLD}{secrets.token_hex(8)}")
            path.rename(old)
            retired.append(old)
        return retired
