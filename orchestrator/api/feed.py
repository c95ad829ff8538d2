"""What one reader of events gets: from the journal, then from the bus.

The invariant: every event after the cursor once and in order, or a gap that says what was missed. The seam is
safe because a feed subscribes in the same step in which it sees that it has read everything. Read by
`stream`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import ConfigDict, Field, field_validator

from orchestrator.api.route import Query, Switch
from orchestrator.core.events import EVENTS, Recorded
from orchestrator.journal.bus import Gap, Subscription
from orchestrator.journal.store import Store

#: Events of one read of the journal.
PAGE = 500

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


class Feed:
    """The events that one reader wants, in order; `cursor` is the last sequence number that it is past."""

    def __init__(
        self,
        store: Store,
        *,
        after: int | None,
        types: frozenset[str] | None = None,
        agent_id: str | None = None,
        task_id: str | None = None,
        capacity: int = 1024,
    ) -> None:
        self._store = store
        self._types = types
        self._agent_id = agent_id
        self._task_id = task_id
        self._capacity = capacity
        self._owned = contextlib.ExitStack()
        self._subscription: Subscription | None = None
        self.cursor = store.state.seq if after is None else min(after, store.state.seq)

    @classmethod
    def of(cls, store: Store, wanted: Wanted, after: int | None, capacity: int) -> Self:
        """Return the feed that a query asks for."""
        return cls(
            store,
            after=after,
            types=wanted.names,
            agent_id=wanted.agent_id,
            task_id=wanted.task_id,
            capacity=capacity,
        )

    def close(self) -> None:
        """Give the place on the bus up."""
        self._owned.close()
        self._subscription = None

    async def replay(self) -> list[Recorded]:
        """Return the next events of the journal; none once there are no more, and the bus has the rest."""
        while self._subscription is None:
            head = self._store.state.seq
            if self.cursor >= head:
                # No await since the head was read: whatever is committed from here on comes by the bus.
                subscribing = self._store.bus.subscribe(capacity=self._capacity)
                self._subscription = self._owned.enter_context(subscribing)
                break
            page = await self._store.events_after(
                self.cursor, limit=PAGE, types=self._types, agent_id=self._agent_id, task_id=self._task_id
            )
            last = page[-1].seq if page else 0
            self.cursor = last if len(page) == PAGE else max(head, last)
            if page:
                return page
        return []

    async def batch(self) -> list[Recorded | Gap]:
        """Wait for the next events and return them, at least one."""
        while True:
            if self._subscription is None and (page := await self.replay()):
                return [*page]
            assert self._subscription is not None  # noqa: S101 - for the type checker: replay subscribed
            first = await self._subscription.receive()
            found = [item for item in [first, *self._subscription.receive_nowait()] if self._take(item)]
            if found:
                return found

    def _take(self, item: Recorded | Gap) -> bool:
        """Move past the item and return whether the reader wants it."""
        last = item.to_seq if isinstance(item, Gap) else item.seq
        if last <= self.cursor:
            return False
        self.cursor = last
        if isinstance(item, Gap):
            return True
        event = item.event
        return (
            (self._types is None or event.name in self._types)
            and (self._agent_id is None or event.agent_id == self._agent_id)
            and (self._task_id is None or event.task_id == self._task_id)
        )


def gap_text(gap: Gap) -> str:
    """Return the JSON of a gap."""
    return f'{{"gap":{{"from":{gap.from_seq},"to":{gap.to_seq}}}}}'
