"""Bring a commit onto another base, in quarantine: by git's own merge of trees, without files or an index.

The invariant: nothing that an agent or a remote wrote runs here. Attributes can name a driver, but only our
configuration could define one, and a bare repository reads no attributes; the merge has ceilings on memory
and time. What does not merge is told, place by place, and left between labels that are ours alone. Called by
`quarantine`.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.conflict import (
    LABELLED,
    UPSTREAM,
    YOURS,
    FileConflict,
    bounded,
    find_places,
)
from orchestrator.core.text import escaped
from orchestrator.errors import GitFailed
from orchestrator.repo.bare import Identity
from orchestrator.repo.git import BOUNDED, Extra, Git, complaint
from orchestrator.repo.objects import ObjectTooLarge, open_reader
from orchestrator.repo.policy import Violation
from orchestrator.repo.sealing import Sealed
from sandbox.base import MIB

#: Bytes of a file in which the places of a conflict are looked for; of a larger one only the name is told.
_MAX_FILE = MIB
#: Names of files with leftovers that are told.
_MAX_LEFT = 20
_NAME_CHARS = 300
_CONFIG = (
    "merge.conflictStyle=merge",
    # A file stays in the directory where its author put it.
    "merge.directoryRenames=false",
    "merge.renameLimit=1000",
    "merge.renormalize=false",
)


@dataclass(frozen=True, slots=True)
class Brought:
    """What a commit became on another base."""

    #: The base, and the files there: with both sides between labels where they do not fit together.
    onto: str
    tree: str
    #: The candidate that has these files; None where nothing is left of the change.
    commit: str | None
    #: What does not fit together, as far as it is told; empty where all does.
    conflicts: tuple[FileConflict, ...]


async def bring(git: Git, identity: Identity, sealed: Sealed, onto: str) -> Brought:
    """Bring commits of record onto another base: one by one where that can be done, else all as one."""
    tip, tree, parent = onto, "", sealed.base
    for commit in sealed.chain:
        step = await _merge(git, identity, commit, parent, tip)
        if step.conflicts:
            break
        tip, tree, parent = step.commit or tip, step.tree, commit
    else:
        if tree:
            return Brought(onto, tree, tip if tip != onto else None, ())
    return await _merge(git, identity, sealed.commit, sealed.base, onto)


async def _merge(git: Git, identity: Identity, commit: str, base: str, onto: str) -> Brought:
    """Merge the change from `base` to `commit` into `onto`, whatever the history between the two."""
    env = Extra(identity.environment())
    # Git finds the base of a merge in the history; this history has but the one that is meant.
    made = await git.run("commit-tree", f"{onto}^{{tree}}", "-p", base, stdin=b"upstream\n", extra=env)
    upstream, yours = f"{UPSTREAM}{onto[:12]}", f"{YOURS}{commit[:12]}"
    await git.run("update-ref", f"refs/heads/{upstream}", made.decode().strip())
    await git.run("update-ref", f"refs/heads/{yours}", commit)
    done = await git.attempt(
        *("merge-tree", "--write-tree", "-z", "--messages", upstream, yours),
        extra=Extra(config=_CONFIG, prefix=BOUNDED),
    )
    if done.exit.code not in {0, 1} or done.exit.signal is not None:
        raise GitFailed(f"git merge-tree ended with {done.exit}: {complaint(done.stderr)}")
    fields = done.stdout.split(b"\0")
    tree = fields[0].decode()
    if done.exit.code == 1:
        return Brought(onto, tree, None, await _describe(git, tree, fields[1:]))
    there = (await git.run("rev-parse", f"{onto}^{{tree}}")).decode().strip()
    if there == tree:
        return Brought(onto, tree, None, ())
    message = await git.run("log", "-1", "--format=%B", "--no-show-signature", commit, "--")
    new = await git.run("commit-tree", tree, "-p", onto, stdin=message, extra=env)
    return Brought(onto, tree, new.decode().strip(), ())


async def find_markers(git: Git, base: str, candidate: str) -> list[Violation]:
    """Return the files in which the candidate leaves what a conflict had put between labels."""
    if not any((git.directory / "refs/heads").glob(f"{UPSTREAM}*")):
        return []
    answer, _ = await git.read_start(
        *("diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-ext-diff", "--no-textconv"),
        *("--ignore-submodules=all", f"-G{LABELLED}", base, candidate, "--"),
        max_bytes=64 * 1024,
        extra=Extra(prefix=BOUNDED),
    )
    names = [_shown(name) for name in answer.split(b"\0")[:-1][:_MAX_LEFT]]
    return [Violation("conflict", name, "both sides of a conflict still stand in it") for name in names]


async def _describe(git: Git, tree: str, fields: list[bytes]) -> tuple[FileConflict, ...]:
    """Return the conflicts, from git's list of entries and its messages."""
    paths: dict[bytes, list[str]] = {}
    end = fields.index(b"") if b"" in fields else len(fields)
    for entry in fields[:end]:
        paths.setdefault(entry.partition(b"\t")[2], [])
    rest = fields[end + 1 :]
    while len(rest) > 2 and rest[0].isdigit():
        count = int(rest[0])
        if len(rest) < count + 3:
            break
        kind = _shown(rest[count + 1])
        for path in rest[1 : count + 1]:
            if kind.startswith("CONFLICT"):
                paths.setdefault(path, []).append(kind.removeprefix("CONFLICT").strip(" ()") or "conflict")
        rest = rest[count + 3 :]
    found = []
    for path, kinds in sorted(paths.items()):
        places, more = await _places(git, tree, path)
        kind = ", ".join(dict.fromkeys(kinds)) or "conflict"
        found.append(FileConflict(path=_shown(path), kind=kind, places=places, more=more))
        if len(found) >= _MAX_LEFT:
            break
    return bounded(found) or (FileConflict(path="?", kind="conflict"),)


async def _places(git: Git, tree: str, path: bytes) -> tuple[tuple[str, ...], int]:
    name = f"{tree}:{path.decode(errors='surrogateescape')}"
    try:
        async with open_reader(git) as reader:
            found = await reader.read(name, max_bytes=_MAX_FILE)
    except ObjectTooLarge:
        return (), 0
    if found is None or found[0] != "blob":
        return (), 0
    return find_places(found[1].decode(errors="replace"))


def _shown(name: bytes) -> str:
    return escaped(name.decode(errors="replace"))[:_NAME_CHARS]
