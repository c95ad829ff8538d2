"""The bytes of the journal: how an event is written, chained to its predecessor, and read back.

Keeps J3: the canonical bytes of an event are exactly its JSON on the wire, made once and hashed; what a row
holds is enough to make them again. Called by the store, the archive and the verification.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from json.encoder import encode_basestring as quote
from typing import Any

from pydantic import TypeAdapter

from orchestrator.core.events import EVENTS, Event, Recorded
from orchestrator.core.moment import iso
from orchestrator.errors import JournalCorrupt

#: What the first event, and the first audit entry, is chained to.
GENESIS = "0" * 64

_IDS = {"task_id", "agent_id"}

dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode

iso_cached = lru_cache(maxsize=16)(iso)

_ROWS = TypeAdapter(list[Any]).serializer


def dump_rows(rows: list[Any]) -> str:
    """Return rows as a JSON array, for the tables, in a quarter of the time that `dump` takes."""
    return _ROWS.to_json(rows).decode()


def quoted(text: str | None) -> str:
    """Return the text as a JSON string, or null."""
    return "null" if text is None else quote(text)


#: What may be written of an event and of its payload: those two, unless they say what nobody may read.
Redacted = Callable[[Event, bytes], tuple[Event, bytes]]


def as_it_is(event: Event, payload: bytes) -> tuple[Event, bytes]:
    """Return both."""
    return event, payload


def encode_payload(event: Event) -> bytes:
    """Return the event's own fields as compact JSON in UTF-8, unset ones left out."""
    # What `model_dump_json` calls, without the checks of its many arguments: half the time, at every append.
    data: bytes = event.__pydantic_serializer__.to_json(event, exclude=_IDS, exclude_none=True)
    return data


def canonical(  # noqa: PLR0917 - the columns of a row, in their order
    seq: int, event_id: str, name: str, time: str, agent_id: str | None, task_id: str | None, data: str
) -> str:
    """Return the JSON of an event: what clients get, and what the chain is over."""
    return _joined(seq, quote(event_id), quote(name), quote(time), quoted(agent_id), quoted(task_id), data)


def _joined(  # noqa: PLR0917 - the same, each but the first as JSON already
    seq: int, event_id: str, name: str, time: str, agent_id: str, task_id: str, data: str
) -> str:
    return (
        f'{{"seq":{seq},"id":{event_id},"type":{name},"time":{time},'
        f'"agentId":{agent_id},"taskId":{task_id},"data":{data}}}'
    )


def chained(previous: str, text: str) -> str:
    """Return the hash that chains the text to the entry with the previous hash."""
    return sha256((previous + text).encode()).hexdigest()


def wire(recorded: Recorded) -> str:
    """Return the event's JSON as every client gets it (contract part 4)."""
    event = recorded.event
    return canonical(
        recorded.seq,
        recorded.id,
        event.name,
        iso_cached(recorded.time),
        event.agent_id,
        event.task_id,
        encode_payload(event).decode(),
    )


def write_event(  # noqa: PLR0917 - what makes the event, then what it is chained to
    seq: int, event_id: str, time: datetime, event: Event, previous: str, redacted: Redacted = as_it_is
) -> tuple[Recorded, str]:
    """Return the recorded event and its row, a JSON array in the order of the columns of `events`."""
    event, payload = redacted(event, encode_payload(event))
    data = payload.decode()
    # The row and the chained text are made of the same pieces, each quoted once.
    quoted_id, name, at = quote(event_id), f'"{event.name}"', quote(iso_cached(time))
    agent_id, task_id = quoted(event.agent_id), quoted(event.task_id)
    digest = chained(previous, _joined(seq, quoted_id, name, at, agent_id, task_id, data))
    row = f'[{seq},{quoted_id},{name},{at},{agent_id},{task_id},{quote(data)},"{digest}"]'
    return Recorded(seq, event_id, time, event, digest), row


def parse_event(name: str, agent_id: str | None, task_id: str | None, data: str) -> Event:
    """Return the typed event that a journal row holds."""
    kind = EVENTS.get(name)
    if kind is None:
        raise JournalCorrupt(f"this version knows no event {name!r}: the journal was written by a newer one")
    ids = f'"agentId":{quoted(agent_id)},"taskId":{quoted(task_id)}'
    return kind.parse(f"{{{ids},{data[1:]}" if data != "{}" else f"{{{ids}}}")


EventRow = tuple[int, str, str, str, str | None, str | None, str, str]


def read_event(row: EventRow) -> Recorded:
    """Return the recorded event of a whole row of `events`."""
    seq, event_id, name, time, agent_id, task_id, data, digest = row
    event = parse_event(name, agent_id, task_id, data)
    return Recorded(seq, event_id, datetime.fromisoformat(time), event, digest)
