"""Compares Valkey with the journal, key by key, and puts right what differs, when somebody asks.

The invariant: what only is on its way is no difference. So whatever looked wrong is looked at again when all
that was committed by then is written; and what is put right is decided while nothing else is written. Called
by `valkey`; the two `look` functions block (see `link`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import trio

from orchestrator.core.mirror import MirrorCompared, MirrorDifference
from orchestrator.core.model import State
from orchestrator.mirror import writing
from orchestrator.mirror.link import Command, Link, Reply
from orchestrator.mirror.source import PAGE
from orchestrator.mirror.view import AGENT, QUEUE, TASK, Entry, Place, Touched
from orchestrator.mirror.wholesale import Scan, Wholesale
from orchestrator.mirror.writing import Marker

#: Places of the queue that are read at once.
STEP = 1000
#: Times that a difference is looked at before it is one while the journal never rests, and how many are told.
LOOKS, TOLD = 5, 100


@dataclass(slots=True)
class Suspects:
    """What looked wrong: the problem of each key, and the tasks whose place is wrong."""

    keys: dict[str, str] = field(default_factory=dict)
    places: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.keys) + len(self.places)

    def add(self, other: Suspects) -> None:
        """Take in others."""
        self.keys.update(other.keys)
        self.places.update(other.places)

    def pages(self) -> Iterator[tuple[list[str], list[str]]]:
        """Yield keys, and tasks, a page of one or of the other at a time."""
        keys, places = iter(list(self.keys)), iter(sorted(self.places))
        while page := list(islice(keys, PAGE)):
            yield page, []
        while page := list(islice(places, PAGE)):
            yield [], page

    def told(self) -> tuple[MirrorDifference, ...]:
        """Return the first of them, with their problems."""
        told = [*self.keys.items(), *((f"{QUEUE} {name}", "place") for name in sorted(self.places))]
        return tuple(MirrorDifference(key=key, problem=problem) for key, problem in told[:TOLD])


@dataclass(frozen=True, slots=True)
class Audit:
    """One comparison."""

    whole: Wholesale
    #: Held while Valkey is written to.
    writing: trio.Lock
    #: Waits until what is committed now is written; tells whether nothing came meanwhile.
    caught_up: Callable[[], Awaitable[bool]]
    state: Callable[[], State]

    async def compare(self, marker: Marker, *, repair: bool) -> MirrorCompared:
        """Compare everything, and where asked put right what differs."""
        compared, suspects = await self._look_around()
        await self._confirm(suspects)
        found, told = len(suspects), suspects.told()
        if repair and suspects:
            async with self.writing:
                for keys, _ in suspects.pages():
                    entries = await self.whole.source.of_keys(keys)
                    await self.whole.thread.call(writing.write_entries, self.whole.link, marker, entries)
                if suspects.places:
                    await self.whole.replace_queue(self.whole.source.queue(self.state()))
            await self._confirm(suspects)
        repaired = found - len(suspects) if repair else 0
        return MirrorCompared(compared=compared, differing=found, repaired=repaired, differences=told)

    async def _look_around(self) -> tuple[int, Suspects]:
        """Return how many keys were looked at, and what seems wrong."""
        whole, suspects, compared = self.whole, Suspects(), 0
        walk = whole.source.walk(self.state())
        while (page := await walk.next()) is not None:
            entries, places = await whole.source.of(page)
            suspects.add(await whole.thread.call(look, whole.link, entries, places))
            compared += len(entries)
        for prefix in (TASK, AGENT):
            scan = Scan(whole, prefix)
            while (keys := await scan.next()) is not None:
                suspects.keys.update(dict.fromkeys(keys, "stale"))
        start, waiting = 0, {place.task_id for place in whole.source.queue(self.state())}
        while names := await whole.thread.call(look_at_queue, whole.link, start):
            suspects.places.update(set(names) - waiting)
            start += len(names)
        return compared, suspects

    async def _confirm(self, suspects: Suspects) -> None:
        """Drop whoever is as it should be, once what was on its way is there."""
        for _ in range(LOOKS):
            if not suspects:
                return
            rested = await self.caught_up()
            again = Suspects()
            async with self.writing:
                for keys, names in suspects.pages():
                    entries = await self.whole.source.of_keys(keys)
                    _, places = await self.whole.source.of(Touched(tasks=frozenset(names)))
                    again.add(await self.whole.thread.call(look, self.whole.link, entries, places))
            suspects.keys, suspects.places = again.keys, again.places
            if rested:
                return


def look(link: Link, entries: Sequence[Entry], places: Sequence[Place]) -> Suspects:
    """Return what is not as it should be."""
    asked: list[Command] = []
    for entry in entries:
        # Never more of a value than it should have, and one byte: whatever stands there, the answer is short.
        asked += [("GETRANGE", entry.key, 0, len((entry.value or "").encode())), ("PEXPIRETIME", entry.key)]
    asked += [("ZSCORE", QUEUE, place.task_id) for place in places]
    replies = [reply for piece in writing.pieces(asked) for reply in link.do(piece)]
    found = Suspects()
    for number, entry in enumerate(entries):
        if problem := _problem(entry, *replies[2 * number : 2 * number + 2]):
            found.keys[entry.key] = problem
    for place, score in zip(places, replies[2 * len(entries) :], strict=True):
        if _number(score) != place.score:
            found.places.add(place.task_id)
    return found


def look_at_queue(link: Link, start: int) -> list[str]:
    """Return whose places follow this many others, a page at most."""
    [reply] = link.do([("ZRANGE", QUEUE, start, start + STEP - 1)])
    return [name.decode(errors="replace") for name in reply or () if isinstance(name, bytes)]


def _problem(entry: Entry, value: Reply, expires: Reply) -> str:
    """Return what is wrong with a key, nothing where all is well."""
    if expires == -2:
        return "missing" if entry.value is not None else ""
    if entry.value is None:
        return "stale"
    if value != entry.value.encode():
        return "differs"
    return "expiry" if expires != (-1 if entry.expires_ms is None else entry.expires_ms) else ""


def _number(score: Reply) -> float | None:
    try:
        return None if score is None else float(score)
    except (TypeError, ValueError):
        return None
