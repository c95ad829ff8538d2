"""How much of what a candidate's branch adds to its target agents wrote, as the history has it.

The invariant: it ends within its deadline and its ceilings whatever was committed, and what cannot be counted
is never taken for little. Called by `supervise.judging`.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from orchestrator.core.share import TRAILERS, Share, agents_among, binaries_among, count
from orchestrator.errors import GitFailed, GitTimeout
from orchestrator.repo.compare import checked_commit
from orchestrator.repo.git import BOUNDED, Extra, Git
from orchestrator.repo.quarantine import Quarantine, Sealed
from sandbox.base import MIB

#: For all files together.
COUNT_S = 60.0
MAX_FILES = 500
MAX_COMMITS = 5000
_EXTRA = Extra(env={"GIT_LITERAL_PATHSPECS": "1"}, prefix=BOUNDED)
_TOLD = "".join(f"%x09%(trailers:key={key},valueonly,separator=%x2c)" for key in TRAILERS)


async def count_share(quarantine: Quarantine, sealed: Sealed, base: str, target: str) -> Share | str:
    """Return the share of agents in what the candidate's branch adds to a target, or why it is not known.

    `base` is the commit that the candidate grew from, `target` the one that the target branch is at.
    """
    git, target, base = quarantine.git, checked_commit(target), checked_commit(base)
    try:
        with trio.move_on_after(COUNT_S):
            if target == base:
                return await _alone(git, sealed, base)
            log = await git.run(
                *(
                    "log",
                    "-z",
                    f"--max-count={MAX_COMMITS + 1}",
                    f"--format=%H{_TOLD}",
                    "--no-show-signature",
                ),
                *(base, "--not", target, "--"),
                extra=_EXTRA,
            )
            if not log:  # nothing but the candidate is new
                return await _alone(git, sealed, base)
            if log.count(b"\0") > MAX_COMMITS:
                return f"the branch is more than {MAX_COMMITS} commits ahead of its target"
            return await _blame(
                git, sealed.commit, target, agents_among(log) | {sealed.commit, *sealed.chain}
            )
    except (GitFailed, GitTimeout) as error:
        return error.detail
    return f"it could not be counted within {COUNT_S:g} s"


async def _alone(git: Git, sealed: Sealed, base: str) -> Share:
    """Return the share of a candidate that nobody else has a part in: all of what it adds, if anything.

    What it adds in binary files counts as one line a file, where that is all there is.
    """
    added = sealed.additions
    if not added:
        words = ("diff-tree", "-r", "-z", "--numstat", "--no-renames", "--diff-filter=AMT", "--no-ext-diff")
        added = binaries_among(await git.run(*words, base, sealed.commit, "--", extra=_EXTRA))
    return Share(added, added)


async def _blame(git: Git, commit: str, target: str, agents: frozenset[str]) -> Share | str:
    found = await git.attempt("merge-base", target, commit, extra=_EXTRA)
    if not found.exit.ok:
        return "the branch and its target have no common beginning"
    names = await git.run(
        *("diff-tree", "-r", "-z", "--name-only", "--no-renames", "--diff-filter=AMT", "--no-ext-diff"),
        *(checked_commit(found.stdout.decode().strip()), commit, "--"),
        extra=_EXTRA,
    )
    files = [name for name in names.split(b"\0") if name]
    if len(files) > MAX_FILES:
        return f"the branch changes more than {MAX_FILES} files"
    return count([await _blame_one(git, commit, target, name) for name in files], agents)


async def _blame_one(git: Git, commit: str, target: str, name: bytes) -> bytes:
    words: Sequence[str] = ("blame", "--incremental", f"{target}..{commit}", "--")
    path = name.decode("utf-8", "surrogateescape")
    return await git.run(*words, path, max_bytes=64 * MIB, extra=_EXTRA)
