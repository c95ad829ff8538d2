"""What a candidate may hold: judged on its trees, before anything is checked out or run.

The invariant: the work done is bounded by the caps below, whatever the candidate is: only directories that
differ from the base are opened, each is counted each time it is come by, and nothing is compared or unpacked.
Caller: `quarantine`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import trio

from orchestrator.core.text import cleaned
from orchestrator.errors import GitFailed
from orchestrator.repo.git import Git
from orchestrator.repo.objects import Entry, ObjectReader, ObjectTooLarge, open_reader
from sandbox.base import MIB

JUDGE_S = 4.0
MAX_VIOLATIONS = 50
_LINK, _GITLINK = 0o120000, 0o160000
_MAX_LINK_BYTES = 4096
_MAX_TREE_BYTES = 8 * MIB
_SHOWN_PATH = 300
#: Categories of characters that a terminal obeys or that reorder what a person reads.
_UNREADABLE = frozenset({"Cc", "Cf", "Zl", "Zp"})
#: Files in which git itself looks for orders; as links they would lead it elsewhere.
_ORDERS = frozenset({".gitattributes", ".gitignore", ".gitmodules", ".mailmap"})


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that the policy does not allow."""

    rule: str
    path: str
    detail: str


@dataclass(frozen=True, slots=True)
class Policy:
    """Ceilings on one candidate's change."""

    #: Entries of directories that differ from the base, and directories opened to find them.
    max_entries: int = 50_000
    max_file_bytes: int = 100 * MIB
    max_total_bytes: int = 512 * MIB
    max_path_bytes: int = 1024
    max_depth: int = 100
    #: Paths that the repository's set-up makes, and the directories that they lie in: gates stand on these.
    made: frozenset[bytes] = frozenset()
    around: frozenset[bytes] = frozenset()

    def reserving(self, roots: Iterable[str]) -> Policy:
        """Return the policy that also keeps candidates from what a set-up made (see `SetupLayer.roots`)."""
        made = [root.rstrip("/").encode() for root in roots]
        around = {path[: match.start()] for path in made for match in re.finditer(b"/", path)}
        return replace(self, made=frozenset(made), around=frozenset(around))


@dataclass(frozen=True, slots=True)
class Change:
    """A file, link or the like that the candidate adds or changes."""

    path: bytes
    entry: Entry


class TooMuch(Exception):
    """The candidate is larger than a change may be; the message says in what."""


async def judge(git: Git, base: str, candidate: str, policy: Policy) -> list[Violation]:
    """Return what is wrong with the candidate's change over the base; a few seconds at most."""
    found: list[Violation] = []
    with trio.move_on_after(JUDGE_S) as scope:
        try:
            async with open_reader(git) as reader:
                walk = _Walk(reader, policy, found)
                await walk.run(await _tree_of(reader, base), await _tree_of(reader, candidate))
                for change in walk.links:
                    await _judge_link(reader, change, found)
            await _judge_sizes(git, walk.files, policy, found)
        except (TooMuch, ObjectTooLarge) as error:
            found.append(Violation("size", "", f"the change is too large: {error}"))
    if scope.cancelled_caught:
        found.append(Violation("size", "", f"the change cannot be looked through within {JUDGE_S:g} s"))
    return found[:MAX_VIOLATIONS]


async def _tree_of(reader: ObjectReader, commit: str) -> str:
    found = await reader.read(f"{commit}^{{tree}}", max_bytes=_MAX_TREE_BYTES)
    if found is None:
        raise GitFailed(f"there is no commit {commit}")
    commit_object = await reader.read(commit, max_bytes=_MAX_TREE_BYTES)
    if commit_object is None or commit_object[0] != "commit":
        raise GitFailed(f"{commit} is not a commit")
    return commit_object[1].partition(b"\n")[0].removeprefix(b"tree ").decode()


class _Walk:
    """Goes through the directories that differ, and notes what is new in them."""

    def __init__(self, reader: ObjectReader, policy: Policy, found: list[Violation]) -> None:
        self._reader = reader
        self._policy = policy
        self._found = found
        self._seen = 0
        self.files: list[Change] = []
        self.links: list[Change] = []

    async def run(self, base: str, candidate: str) -> None:
        """Compare two trees; raises `TooMuch`."""
        waiting: list[tuple[bytes, str | None, str]] = [(b"", base, candidate)] if base != candidate else []
        while waiting:
            prefix, old, new = waiting.pop()
            before = await self._reader.read_tree(old, max_bytes=_MAX_TREE_BYTES) if old else {}
            after = await self._reader.read_tree(new, max_bytes=_MAX_TREE_BYTES)
            if prefix.count(b"/") > self._policy.max_depth:
                raise TooMuch(f"directories nest deeper than {self._policy.max_depth}")
            fresh = {name: entry for name, entry in after.items() if before.get(name) != entry}
            self._count(1 + len(fresh))
            self._find_collisions(prefix, fresh, after)
            for name, entry in fresh.items():
                was = before.get(name)
                path = prefix + name
                self._judge_name(path, name)
                if path in self._policy.made or (path in self._policy.around and not entry.is_tree):
                    self._add("set-up", path, "the repository's set-up makes it: leave it out of the commit")
                elif entry.is_tree:
                    waiting.append((path + b"/", was.oid if was and was.is_tree else None, entry.oid))
                else:
                    self._note(Change(path, entry))

    def _count(self, entries: int) -> None:
        self._seen += entries
        if self._seen > self._policy.max_entries:
            raise TooMuch(f"it has more than {self._policy.max_entries} entries")
        if len(self._found) > MAX_VIOLATIONS:
            raise TooMuch(f"it has more than {MAX_VIOLATIONS} faults")

    def _note(self, change: Change) -> None:
        if change.entry.mode == _GITLINK:
            self._add("gitlink", change.path, "a repository inside the repository: remove its .git")
        elif change.entry.mode == _LINK:
            self.links.append(change)
        else:
            self.files.append(change)

    def _judge_name(self, path: bytes, name: bytes) -> None:
        if len(path) > self._policy.max_path_bytes:
            self._add("path", path, f"the path is longer than {self._policy.max_path_bytes} bytes")
        # Bytes that are no UTF-8 stand for themselves: old names in other encodings are nobody's attack.
        text = name.decode(errors="surrogateescape")
        if any(unicodedata.category(character) in _UNREADABLE for character in text):
            self._add("name", path, "the name holds control or invisible characters")
        if is_gitish(text):
            self._add("name", path, "some file systems take this name for .git")

    def _find_collisions(self, prefix: bytes, fresh: dict[bytes, Entry], after: dict[bytes, Entry]) -> None:
        folded: dict[str, bytes] = {}
        for name in sorted(after, key=lambda name: name in fresh):
            other = folded.setdefault(_folded(name), name)
            if other != name and name in fresh:
                detail = f"some file systems cannot tell it from {_shown(other)}"
                self._add("name", prefix + name, detail)

    def _add(self, rule: str, path: bytes, detail: str) -> None:
        self._found.append(Violation(rule, _shown(path), detail))


async def _judge_link(reader: ObjectReader, change: Change, found: list[Violation]) -> None:
    content = await reader.read(change.entry.oid, max_bytes=_MAX_LINK_BYTES)
    target = content[1] if content is not None else b""
    trouble = link_trouble(change.path, target)
    if trouble:
        found.append(Violation("link", _shown(change.path), trouble))


def link_trouble(path: bytes, target: bytes) -> str | None:
    """Return what is wrong with a symbolic link, or None where it stays inside the tree."""
    if not target or b"\0" in target or b"\n" in target:
        return "the link leads nowhere that has a name"
    if target.startswith(b"/"):
        return f"the link leads to the absolute path {_shown(target)}"
    if path.rpartition(b"/")[2].decode(errors="surrogateescape").lower() in _ORDERS:
        return "git reads this file as orders, so it may not be a link"
    depth = path.count(b"/")
    for part in target.split(b"/"):
        if is_gitish(part.decode(errors="surrogateescape")):
            return "the link leads into .git"
        depth += {b"..": -1, b".": 0, b"": 0}.get(part, 1)
        if depth < 0:
            return f"the link leads out of the repository, to {_shown(target)}"
    return None


async def _judge_sizes(git: Git, files: list[Change], policy: Policy, found: list[Violation]) -> None:
    if not files:
        return
    names = {change.entry.oid: change.path for change in files}
    asked = "".join(f"{oid}\n" for oid in names).encode()
    answer = await git.run(
        "cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)", stdin=asked, deadline_s=JUDGE_S
    )
    total = 0
    for oid, kind, size in _lines(answer):
        if kind != "blob":
            found.append(Violation("object", _shown(names[oid]), f"is a {kind} where a file should be"))
            continue
        total += int(size)
        if int(size) > policy.max_file_bytes:
            detail = f"has {size} bytes, more than {policy.max_file_bytes}"
            found.append(Violation("size", _shown(names[oid]), detail))
    if total > policy.max_total_bytes:
        found.append(Violation("size", "", f"{total} bytes in all, more than {policy.max_total_bytes}"))


def _lines(answer: bytes) -> Iterator[tuple[str, str, str]]:
    for line in answer.decode("ascii").splitlines():
        oid, _, rest = line.partition(" ")
        kind, _, size = rest.partition(" ")
        yield oid, kind, size


def is_gitish(name: str) -> bool:
    """Return whether some file system takes the name for `.git`."""
    visible = "".join(c for c in name if unicodedata.category(c) != "Cf")
    stem = visible.partition(":")[0].rstrip(". ").lower()
    return stem in {".git", "git~1"}


def _folded(name: bytes) -> str:
    return unicodedata.normalize("NFC", name.decode(errors="surrogateescape").casefold())


def _shown(path: bytes) -> str:
    return (
        cleaned(path.decode(errors="backslashreplace"))
        .replace("\n", "\\n")
        .replace("\t", "\\t")[:_SHOWN_PATH]
    )
