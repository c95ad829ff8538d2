"""What one reader of events gets: from the journal, then from the bus.

The invariant: every event after the cursor once and in order, or a gap that says what was missed. The seam is
safe because both sides of it are one sequence: a feed goes over to the bus where that still has all that
comes after the cursor. Read by `flow` and `stream`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import ConfigDict, Field, field_validator

from orchestrator.api.route import Query, Switch
from orchestrator.core.events import EVENTS, Recorded
from orchestrator.journal.bus import Bus, Gap
from orchestrator.journal.store import Store

#: Events of one read of the journal.
PAGE = 500
#: A reader that is so near to the end goes over to the bus, which keeps many times as much.
SEAM = 500

#: A sequence number of the journal.
Seq = Annotated[int, Field(ge=0, le=2**53)]


def names_of(asked: Iterable[str]) -> frozenset[str]:
    """Return the types of events that are asked for by name, or by what they begin with: `agent.`."""
    names: set[str] = set()
    for word in map(str.strip, asked):
        found = {name for name in EVENTS if name == word or (word.endswith(".") and name.startswith(word))}
        if not found:
            raise ValueError(f"{word[:40]!r} is no type of event, and no beginning of one such as `agent.`")
        names |= found
    return frozenset(names)


class Wanted(Query):
    """Which events a reader wants, and after which one; without `after`, from now on."""

    after: Seq | None = None
    #: Of the event stream over SSE: false ends it where the journal ends now.
    follow: Switch = True
    #: With commas between them.
    types: str | None = None
    agent_id: str | None = None
    task_id: str | None = None

    @property
    def names(self) -> frozenset[str] | None:
        """The types as a set; None for all."""
        return None if self.types is None else names_of(self.types.split(","))

    @field_validator("types")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            names_of(value.split(","))
        return value


class Subscribe(Query):
    """What a WebSocket's reader sends: it replaces what it had asked for, and `after` moves its place."""

    model_config = ConfigDict(strict=True)

    after: Seq | None = None
    types: list[str] | None = None
    agent_id: str | None = None
    task_id: str | None = None

    @property
    def names(self) -> frozenset[str] | None:
        """The types as a set; None for all."""
        return None if self.types is None else names_of(self.types)

    @field_validator("types")
    @classmethod
    def _known(cls, value: list[str] | None) -> list[str] | None:
        if value is not None:
            names_of(value)
        return value


class Message(Query):
    """The one message that a WebSocket's reader may send."""

    model_config = ConfigDict(strict=True)

    subscribe: Subscribe


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are wanted; None is all. Readers with equal filters share what is made for them."""

    types: frozenset[str] | None = None
    agent_id: str | None = None
    task_id: str | None = None

    @classmethod
    def of(cls, asked: Wanted | Subscribe) -> Self:
        """Return the filter that a client asks for."""
        return cls(asked.names, asked.agent_id, asked.task_id)

    def takes(self, item: Recorded | Gap) -> bool:
        """Return whether the item is wanted; a gap always is, for what was missed is not known."""
        if isinstance(item, Gap):
            return True
        event = item.event
        return (
            (self.types is None or event.name in self.types)
            and (self.agent_id is None or event.agent_id == self.agent_id)
            and (self.task_id is None or event.task_id == self.task_id)
        )


class Feed:
    """The events that one reader wants, in order; `cursor` is the last sequence number that it is past."""

    def __init__(self, store: Store, after: int | None, wanted: Filter = Filter()) -> None:
        self._store = store
        self.wanted = wanted
        self.cursor = store.state.seq if after is None else min(after, store.state.seq)
        #: Whether the rest comes by the bus.
        self.live = False

    @property
    def bus(self) -> Bus:
        """Where the rest comes from."""
        return self._store.bus

    async def replay(self) -> list[Recorded]:
        """Return the next events of the journal; none once there are no more, and the bus has the rest."""
        while not self.live:
            head = self._store.state.seq
            if self.cursor >= max(head - SEAM, self.bus.tail):
                # No await since: the bus still has all that comes after the cursor.
                self.live = True
                break
            page = await self._store.events_after(
                self.cursor,
                limit=PAGE,
                types=self.wanted.types,
                agent_id=self.wanted.agent_id,
                task_id=self.wanted.task_id,
            )
            last = page[-1].seq if page else 0
            self.cursor = last if len(page) == PAGE else max(head, last)
            if page:
                return page
        return []

    def unread(self) -> list[Recorded | Gap]:
        """Return what the bus has after the cursor, which does not move; live feeds alone may ask."""
        return self.bus.after(self.cursor)


def last_seq(item: Recorded | Gap) -> int:
    """Return where a reader stands who was given the item."""
    return item.to_seq if isinstance(item, Gap) else item.seq


def gap_text(gap: Gap) -> str:
    """Return the JSON of a gap."""
    return f'{{"gap":{{"from":{gap.from_seq},"to":{gap.to_seq}}}}}'
