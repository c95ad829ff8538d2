"""Make commits of record: an agent's work as commits of ours, over the base that it is judged by.

The invariant: author, committer and message of what lands are ours to write, and its files are the
candidate's, to the byte. Called by `quarantine`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.core.text import cleaned
from orchestrator.repo.bare import Identity
from orchestrator.repo.compare import read_numstat
from orchestrator.repo.git import Extra, Git
from sandbox.base import MIB

MAX_MESSAGE = 16 * 1024  # characters
#: Commits of an agent that are kept as they are; a longer history becomes one.
MAX_KEPT = 100


@dataclass(frozen=True, slots=True)
class Sealed:
    """The commit of record, and how much it changes."""

    commit: str
    files: int
    additions: int
    deletions: int
    #: The commit that it is made over.
    base: str
    #: All commits of ours between the two, the oldest first, where it is more than the one.
    chain: tuple[str, ...] = ()


async def seal(git: Git, identity: Identity, base: str, candidate: str, message: str) -> Sealed:
    """Make one commit of ours with the candidate's files, over the base."""
    return await _measured(git, base, await _commit(git, identity, candidate, base, message))


async def seal_each(
    git: Git, identity: Identity, base: str, candidate: str, message_of: Callable[[str], str]
) -> Sealed | None:
    """Make each commit of a candidate anew; None where its history is no line of at most `MAX_KEPT`.

    `message_of` returns the message for what the agent had written.
    """
    commits = await line_of(git, base, candidate)
    if len(commits) < 2:
        return None
    tip, chain = base, []
    for commit in commits:
        said = await git.run(
            "log", "-1", "--format=%B", "--no-show-signature", commit, "--", max_bytes=64 * MIB
        )
        message = message_of(cleaned(said[: 4 * MAX_MESSAGE].decode(errors="replace"))[:MAX_MESSAGE])
        tip = await _commit(git, identity, commit, tip, message)
        chain.append(tip)
    sealed = await _measured(git, base, tip)
    return Sealed(
        sealed.commit, sealed.files, sealed.additions, sealed.deletions, base=base, chain=tuple(chain)
    )


async def line_of(git: Git, base: str, candidate: str) -> list[str]:
    """Return the commits from base to candidate, the oldest first; none where that is no short line."""
    answer, cut = await git.read_start(
        *("rev-list", "--reverse", "--topo-order", "--parents", candidate, f"^{base}", "--"),
        max_bytes=(MAX_KEPT + 1) * 128,
    )
    rows = [row.split() for row in answer.decode().splitlines()]
    line = [row[0] for row in rows]
    is_line = [row[1:] for row in rows] == [[parent] for parent in [base, *line[:-1]]]
    return line if is_line and not cut and len(line) <= MAX_KEPT else []


async def _commit(git: Git, identity: Identity, files_of: str, parent: str, message: str) -> str:
    text = cleaned(message[:MAX_MESSAGE]).strip() or "Change"
    made = await git.run(
        *("commit-tree", f"{files_of}^{{tree}}", "-p", parent),
        stdin=f"{text}\n".encode(),
        extra=Extra(identity.environment()),
    )
    return made.decode().strip()


async def _measured(git: Git, base: str, commit: str) -> Sealed:
    counts = await read_numstat(git, base, commit)
    added = sum(count.additions or 0 for count in counts)
    return Sealed(commit, len(counts), added, sum(count.deletions or 0 for count in counts), base)
