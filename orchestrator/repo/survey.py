"""What a base commit tells before anybody works on it: its languages, its build files, and texts in it.

The invariant: it is read from the mirror by our own git, never from an agent's files, and costs a bounded
time and memory whatever the repository: of a large one it is a part. Called by `supervise.briefing`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import trio

from orchestrator.core.survey import Survey, survey_of
from orchestrator.errors import GitFailed
from orchestrator.repo.compare import checked_commit
from orchestrator.repo.objects import Entry, ObjectReader, ObjectTooLarge, open_reader
from orchestrator.repo.worktree import Base
from sandbox.base import MIB

#: How much of a tree is looked at.
MAX_TREES = 200
MAX_ENTRIES = 50_000
MAX_TREE_BYTES = 4 * MIB
#: How long a look may take on a busy host.
LOOK_S = 10.0
_MAX_KNOWN = 256
_REGULAR = (0o100644, 0o100755)


async def survey(base: Base) -> Survey:
    """Return what the names in the base commit tell; of a large or odd tree, what was seen of it."""
    seen = _Seen()
    with base.mirror.hold(), trio.move_on_after(LOOK_S):
        try:
            async with open_reader(base.mirror.git) as reader:
                await seen.look(reader, checked_commit(base.commit))
        except (ObjectTooLarge, GitFailed):
            seen.whole = False
    return survey_of(seen.top, seen.suffixes, whole=seen.whole)


class _Seen:
    """A walk over a tree, the nearest directories first."""

    def __init__(self) -> None:
        self.top: tuple[str, ...] = ()
        self.suffixes: Counter[str] = Counter()
        self.whole = False

    async def look(self, reader: ObjectReader, commit: str) -> None:
        waiting = deque([f"{commit}^{{tree}}"])
        entries = 0
        for number in range(MAX_TREES):
            if not waiting or entries > MAX_ENTRIES:
                break
            tree = await reader.read_tree(waiting.popleft(), max_bytes=MAX_TREE_BYTES)
            entries += len(tree)
            if number == 0:
                self.top = tuple(name.decode(errors="replace") for name in tree)
            for name, entry in tree.items():
                self._note(name, entry, waiting)
        self.whole = not waiting

    def _note(self, name: bytes, entry: Entry, waiting: deque[str]) -> None:
        if entry.is_tree:
            waiting.append(entry.oid)
        elif entry.mode in _REGULAR:
            _, dot, suffix = name.rpartition(b".")
            if dot and len(suffix) <= 10:
                self.suffixes[suffix.decode(errors="replace").lower()] += 1


async def read_texts(base: Base, paths: Sequence[str], *, max_bytes: int) -> dict[str, str]:
    """Return the files of the base commit that are there under these paths, none larger than `max_bytes`."""
    found: dict[str, str] = {}
    waiting = deque(paths)
    with base.mirror.hold(), trio.move_on_after(LOOK_S):
        while waiting:
            try:
                async with open_reader(base.mirror.git) as reader:
                    while waiting:
                        path = waiting.popleft()
                        blob = await reader.read(f"{checked_commit(base.commit)}:{path}", max_bytes=max_bytes)
                        if blob is not None and blob[0] == "blob":
                            found[path] = blob[1].decode(errors="replace")
            except ObjectTooLarge:
                continue  # with a new reader, and the next path
    return found


class Surveys:
    """What was found out about the last commits."""

    def __init__(self) -> None:
        self._known: dict[str, Survey] = {}

    async def of(self, base: Base) -> Survey:
        """Return what the names in a commit tell, from memory where it was asked for lately."""
        if (known := self._known.get(base.commit)) is not None:
            return known
        found = await survey(base)
        while len(self._known) >= _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[base.commit] = found
        return found
