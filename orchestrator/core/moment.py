"""Points in time as clients see them: RFC 3339, UTC, milliseconds.

Time is an argument everywhere in the core; this module only writes it down. Order is by sequence and
durations are by the monotonic clock (J12): a moment is for people.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, PlainSerializer


def iso(moment: datetime) -> str:
    """Return the moment, which must know its offset, as `2026-01-31T12:00:00.000Z`."""
    if moment.tzinfo is None:  # Python would take it for the host's local time
        raise ValueError(f"{moment} does not say which offset from UTC it is in")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def whole_ms(moment: datetime) -> datetime:
    """Return the moment in UTC, cut to what is written down, so that what is read back equals it."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


#: A moment that is written in that form wherever it becomes JSON.
Moment = Annotated[
    AwareDatetime, AfterValidator(whole_ms), PlainSerializer(iso, return_type=str, when_used="json")
]
