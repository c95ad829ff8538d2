"""Makes a mirror anew that was found damaged, and gets back what stood on it.

The invariant: the damaged one stays in its place until its successor has what the remote gives and what is
whole of the rest, and is set aside then, not removed: worktrees that borrow objects find them under the same
path. A mirror that was found damaged is known as that until it is replaced, after a crash too. Called by
`repositories` and, through it, by `supervise.upkeep`.
"""

from __future__ import annotations

import logging
import re
import secrets
import shlex
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import trio

from orchestrator.errors import BranchMissing, GitFailed, RepositoryError
from orchestrator.repo.mirrors import MARK, Mirror
from orchestrator.repo.single_flight import Flights
from orchestrator.repo.soundness import look, read_all, walk
from orchestrator.repo.squatter import squatter

log = logging.getLogger(__name__)

#: How long those who use a damaged mirror may take to be done with it.
GIVE_WAY_S = 120.0
#: What begins the name of one that is being made, and of one that was set aside.
ANEW, ASIDE = "anew-", "aside-"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_WHY = 500


class MirrorDamaged(RepositoryError):
    """Our own copy of the repository is damaged and is being made anew."""

    retryable = True
    status = 503


class BaseGone(GitFailed):
    """The commit that a worktree stands on is to be had nowhere."""


def damage_of(mirror: Mirror) -> str | None:
    """Return why the mirror is to be made anew, as far as a look at its files tells; None for a whole one."""
    if why := squatter(mirror.directory):  # which is not to be marked
        return why
    try:
        return (mirror.directory / MARK).read_text(errors="replace")[:_MAX_WHY] or "it was found damaged"
    except OSError:
        if why := look(mirror.directory, mirror.seen_whole):
            condemn(mirror, why)
        return why


def condemn(mirror: Mirror, why: str) -> None:
    """Note that the mirror is damaged; from now on whoever begins anything on it makes it anew first."""
    log.warning("a mirror is damaged", extra={"repository": mirror.remote.url, "why": why})
    with suppress(OSError):  # then it is found out again
        (mirror.directory / MARK).write_text(why[:_MAX_WHY])


async def examine(mirror: Mirror, commit: str, *, thorough: bool) -> str | None:
    """Return what is wrong with the mirror, which is condemned then, or None where it has all of the commit.

    A `thorough` look reads the commit's history, and every byte.
    """
    if why := damage_of(mirror):
        return why
    with mirror.hold():
        why = await walk(mirror.git, commit, history=thorough)
        if why is None and thorough:
            why = await read_all(mirror.directory)
    if why:
        condemn(mirror, why)
    return why


async def examine_base(mirror: Mirror, commit: str) -> str | None:
    """Return what is wrong with a mirror that has lost a commit; None where it has it.

    One that is whole, and has it not, is not damaged: then the commit is to be had elsewhere, or nowhere.
    """
    if await mirror.has(commit):
        return None
    for _, each in _refs(mirror.directory, "base"):
        if why := await examine(mirror, each, thorough=False):
            return why
    return None


class Renewals:
    """Who makes which mirror anew: one at a time, for all who wait for it."""

    def __init__(self) -> None:
        self._flights: Flights[Path, None] = Flights()

    async def renew(self, mirror: Mirror, branch: str, wanted: Collection[str]) -> bool:
        """Make the mirror anew where it is damaged, with the branch and the `wanted` commits.

        Returns whether this very call did: of many who wait for it, one. Raises `RepositoryError` as a fetch
        does, and `MirrorDamaged` where those at work on the old one do not end; then it stays as it is.
        """
        made = False

        async def work() -> None:
            nonlocal made
            made = await _make_anew(mirror, branch, wanted) or made

        await self._flights.get(mirror.directory, work)
        return made

    async def get_back(self, mirror: Mirror, branch: str, commit: str) -> None:
        """See to it that the mirror has a commit that it had; raises `BaseGone` where nobody has it."""
        if await examine_base(mirror, commit):
            await self.renew(mirror, branch, [commit])
        else:
            with suppress(BranchMissing):
                await mirror.refresh(branch)
        for aside in asides_of(mirror.directory):
            if not await mirror.has(commit):
                await _carry(aside, mirror, commit)
        if not await mirror.has(commit):
            raise BaseGone(f"the commit {commit[:12]} that it stands on is gone, here and at the remote")


async def _make_anew(mirror: Mirror, branch: str, wanted: Collection[str]) -> bool:
    if damage_of(mirror) is None:
        return False
    if squatter(mirror.directory):
        with suppress(BranchMissing):
            await mirror.refresh(branch)  # which takes the place back
        with suppress(OSError):
            (mirror.directory / MARK).unlink()
        return True
    root, token = mirror.directory.parent, secrets.token_hex(8)
    fresh = mirror.twin(root / f"{ANEW}{token}")
    try:
        with fresh.hold():
            with suppress(BranchMissing):  # then it has nothing of it, as the remote
                await fresh.refresh(branch)
            lost = await _carry_over(mirror.directory, fresh, wanted)
            with trio.move_on_after(GIVE_WAY_S) as patience:
                await mirror.give_way(fresh, root / f"{ASIDE}{mirror.directory.name}-{token}")
            if patience.cancelled_caught:
                raise MirrorDamaged(f"the copy of {mirror.remote.url} is damaged, and still in use")
    finally:
        shutil.rmtree(fresh.directory, ignore_errors=True)  # nothing, where it took the place
    log.warning("a mirror was made anew", extra={"repository": mirror.remote.url, "lost": lost})
    return True


async def _carry_over(damaged: Path, fresh: Mirror, wanted: Collection[str]) -> list[str]:
    """Take what is whole of a damaged mirror's branches and salvages; return the refs that were lost."""
    lost = []
    every = "refs/salvage/*"
    if _refs(damaged, "salvage") and not await _carry(damaged, fresh, every, every):
        for ref, commit in _refs(damaged, "salvage"):
            if not await _carry(damaged, fresh, commit, ref):
                lost.append(ref)
    for ref, commit in _refs(damaged, "base"):
        if fresh.git.read_ref(ref) is None:  # another branch than the one that was fetched
            await _carry(damaged, fresh, commit, ref)
    for commit in wanted:
        if not await fresh.has(commit):
            await _carry(damaged, fresh, commit)
    return lost


async def _carry(source: Path, mirror: Mirror, commit: str, ref: str | None = None) -> bool:
    """Copy a commit out of a damaged repository, which borrows what it lacks; return whether it was whole."""
    lent = f"GIT_ALTERNATE_OBJECT_DIRECTORIES={mirror.objects}"
    lender = ("env", lent, "git", "-c", "uploadpack.allowAnySHA1InWant=true", "upload-pack")
    try:
        await mirror.adopt(source, commit, ref, options=("--upload-pack", shlex.join(lender)))
    except RepositoryError as error:
        log.info("not whole in a damaged mirror", extra={"commit": ref or commit, "error": error.detail})
        return False
    return True


def asides_of(mirror: Path) -> list[Path]:
    """Return what was set aside in favour of a mirror, the newest first."""
    found = mirror.parent.glob(f"{ASIDE}{mirror.name}-*")
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def has_lost(aside: Path, mirror: Path) -> bool:
    """Return whether one that was set aside keeps a salvage that its successor has not."""
    return any(not (mirror / ref).exists() for ref, _ in _refs(aside, "salvage"))


def _refs(mirror: Path, kind: str) -> list[tuple[str, str]]:
    """Return the refs of a kind that are whole, and their commits."""
    found = []
    with suppress(OSError):
        for path in sorted((mirror / "refs" / kind).iterdir()):
            commit = path.read_text(errors="replace").strip()
            if _COMMIT.fullmatch(commit):
                found.append((f"refs/{kind}/{path.name}", commit))
    return found
