"""What two changes to the same place come to, in words and bounds fit for an event, an agent and a person.

Pure. A conflict is told file by file, with the places where both sides are seen; whoever reads it has the
rest in the files themselves. Callers: `repo.merging`, `core.judgement`, and `supervise` for the words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from orchestrator.core.spec import Wire
from orchestrator.core.text import cleaned

#: Files, and places of each, that are told of one conflict; characters of a place, and of all together.
MAX_FILES = 20
MAX_PLACES = 5
MAX_PLACE = 1500
MAX_TOLD = 24_000
#: What begins the complaint about a conflict, and nobody else's.
PREFIX = "conflict: "
#: The two sides, as the lines between them are labelled: by ours alone, so that a leftover is known.
UPSTREAM, YOURS = "upstream-", "yours-"
LABELLED = rf"^(<{{7}}|>{{7}}) ({UPSTREAM}|{YOURS})[0-9a-f]{{12}}"
_PLACE = re.compile(
    rf"^<{{7}} {UPSTREAM}[0-9a-f]{{12}}.*?^>{{7}} {YOURS}[0-9a-f]{{12}}[^\n]*$", re.DOTALL | re.MULTILINE
)


class FileConflict(Wire):
    """One file that both sides changed: how git calls it, and the places with both sides."""

    path: str
    kind: str
    places: tuple[str, ...] = ()
    #: Places that are not told.
    more: int = 0


def find_places(text: str) -> tuple[tuple[str, ...], int]:
    """Return the places of a file where both sides stand, cleaned and cut, and how many more there are."""
    found = [match[0] for match in _PLACE.finditer(text)]
    return tuple(_cut(cleaned(place)) for place in found[:MAX_PLACES]), max(0, len(found) - MAX_PLACES)


def _cut(place: str) -> str:
    """Return the place, without its middle where it is long: both labels stay."""
    if len(place) <= MAX_PLACE:
        return place
    half = MAX_PLACE // 2
    return f"{place[:half]}\n[...]\n{place[-half:]}"


def bounded(conflicts: Iterable[FileConflict]) -> tuple[FileConflict, ...]:
    """Return as many as may be told together, the later ones without their places."""
    told: list[FileConflict] = []
    room = MAX_TOLD
    for conflict in conflicts:
        if len(told) >= MAX_FILES:
            break
        size = sum(map(len, conflict.places))
        if size > room:
            conflict = FileConflict(  # noqa: PLW2901 - the same, told shorter
                path=conflict.path, kind=conflict.kind, more=conflict.more + len(conflict.places)
            )
            size = 0
        room -= size
        told.append(conflict)
    return tuple(told)


def complaints(onto: str, branch: str, conflicts: Iterable[FileConflict]) -> tuple[str, ...]:
    """Return what an agent is told: where its work was brought, and each conflict there."""
    told = bounded(conflicts)
    files = ", ".join(conflict.path for conflict in told)
    first = f"{PREFIX}{branch} has moved on to {onto}, and both sides changed: {files}"
    return (first, *(_describe(conflict) for conflict in told))


def _describe(conflict: FileConflict) -> str:
    more = f"\n[{conflict.more} more places in the file]" if conflict.more else ""
    return "\n".join([f"{conflict.path}: {conflict.kind}", *conflict.places]) + more


def summary(conflicts: Iterable[FileConflict]) -> str:
    """Return the conflicts in one line."""
    return "; ".join(f"{conflict.path}: {conflict.kind}" for conflict in bounded(conflicts))[:1000]
