"""Land a sealed commit: copy it into the mirror, push it with a lease, say what became of it.

The invariant: a remote's ref moves only from the value that was journaled to the commit that was judged;
doing it again is no harm. Caller: `supervise.run`, which journals the intent first.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from orchestrator.core.model import PushIntent
from orchestrator.errors import (
    BranchBlocked,
    GitFailed,
    LeaseLost,
    PushRejected,
    RepositoryError,
    RepositoryUnreachable,
)
from orchestrator.repo.base import Base
from orchestrator.repo.compare import checked_commit
from orchestrator.repo.git import complaint
from orchestrator.repo.mirrors import Mirror
from orchestrator.repo.quarantine import Quarantine
from sandbox.process import Completed

_REF = re.compile(r"refs/heads/[A-Za-z0-9_][A-Za-z0-9._/+@#=-]*")
_COMMIT_OR_NOTHING = re.compile(r"([0-9a-f]{40})?")
#: What git and its servers say where somebody else was first.
_LOST = re.compile(
    r"stale info|fetch first|non-fast-forward|already exists|cannot lock ref|failed to update ref|"
    r"failed to lock|incorrect old value|reference (already )?exists|needs force"
)
#: Beside it, where a branch would have to be a directory and a file at once.
_BLOCKED = re.compile(r"cannot lock ref '([^']+)': '([^']+)' exists")


class Doors:
    """One door a branch of a remote: whoever looks, and pushes what they saw fit, is alone meanwhile.

    Nothing that waits for an agent, a gate or a person goes on inside.
    """

    def __init__(self) -> None:
        self._doors: dict[tuple[str, str], trio.Lock] = {}

    @asynccontextmanager
    async def open(self, url: str, ref: str) -> AsyncGenerator[None, None]:
        """Wait for the door of a branch, first come, first in."""
        key = (url, ref)
        door = self._doors.setdefault(key, trio.Lock())
        try:
            async with door:
                yield
        finally:
            if not door.locked():
                self._doors.pop(key, None)


async def has_arrived(mirror: Mirror, push: PushIntent) -> bool:
    """Return whether the remote's branch has the commit of a push: at its tip, or below what came after."""
    tip = await mirror.observe(push.ref)
    if tip is None or tip in {push.new, push.old}:
        return tip == push.new
    if not await mirror.has(push.new):  # so it was never tried
        return False
    tip = await mirror.refresh(push.ref.removeprefix("refs/heads/"))
    return await is_below(mirror, push.new, tip)


async def is_below(mirror: Mirror, commit: str, tip: str) -> bool:
    """Return whether a commit is in the history of another; both are in the mirror."""
    with mirror.hold():
        done = await mirror.git.attempt("merge-base", "--is-ancestor", checked_commit(commit), tip)
    if done.exit.code not in {0, 1}:
        raise GitFailed(f"git merge-base ended with {done.exit}: {complaint(done.stderr)}")
    return done.exit.ok


async def land(base: Base, quarantine: Quarantine, push: PushIntent) -> None:
    """Carry out the push that was journaled; returns where the remote has the commit, also from before.

    Raises `LeaseLost` where the ref is not where it was expected, `BranchBlocked` where the name of another
    leaves no room for it, `PushRejected` where the remote will not have it, `RepositoryUnreachable` where its
    answer is not known: then ask `Repositories.observe`.
    """
    if not _REF.fullmatch(push.ref) or not _COMMIT_OR_NOTHING.fullmatch(push.old):
        raise PushRejected(f"the push names no branch, or no commit to expect there: {push.ref[:200]!r}")
    mirror: Mirror = base.mirror
    commit = checked_commit(push.new)
    await mirror.adopt(quarantine.directory, commit)
    done = await mirror.push(commit, push.ref, expected=push.old)
    if not done.exit.ok:
        raise _failure(done, push)


def _failure(done: Completed, push: PushIntent) -> RepositoryError:
    said = complaint(done.stderr)
    for line in done.stdout.decode(errors="replace").splitlines():
        flag, _, rest = line.partition("\t")
        if flag == "!":
            answer = complaint(rest.partition("\t")[2].encode())
            if blocker := _blocker(f"{answer}\n{done.stderr.decode(errors='replace')}", push.ref):
                return BranchBlocked(
                    f"{push.remote} has {blocker}, beside which there can be no {push.ref}: "
                    "remove it or set options.landing.branch"
                )
            if _LOST.search(answer):
                return LeaseLost(f"{push.ref} of {push.remote} was moved by somebody else: {answer}")
            return PushRejected(f"{push.remote} refused {push.ref}: {answer}")
    return RepositoryUnreachable(f"{push.remote}: {said}")


def _blocker(said: str, ref: str) -> str | None:
    """Return the branch that the remote names as the one in the way, if it can be in the way of `ref`."""
    for wanted, there in _BLOCKED.findall(said):
        nested = there.startswith(f"{ref}/") or ref.startswith(f"{there}/")
        if wanted == ref and nested and _REF.fullmatch(there):
            return str(there)
    return None
