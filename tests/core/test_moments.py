"""Points in time are written in one form, and what is read back equals what was written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from orchestrator.core.moment import Moment, iso, whole_ms

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (NOON, "2026-01-31T12:00:00.000Z"),
        (NOON.replace(microsecond=999_999), "2026-01-31T12:00:00.999Z"),
        (NOON.astimezone(timezone(timedelta(hours=5, minutes=30))), "2026-01-31T12:00:00.000Z"),
    ],
)
def test_a_moment_is_written_in_utc_with_milliseconds(moment: datetime, text: str) -> None:
    assert iso(moment) == text


@given(moment=st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.timezones()))  # noqa: DTZ001 - bounds
def test_what_is_read_back_equals_what_was_cut(moment: datetime) -> None:
    cut = whole_ms(moment)
    assert datetime.fromisoformat(iso(moment)) == cut
    assert timedelta(0) <= moment - cut < timedelta(milliseconds=1)
    assert MOMENT.validate_json(MOMENT.dump_json(moment)) == cut


def test_a_moment_that_does_not_say_its_offset_is_refused() -> None:
    naive = NOON.replace(tzinfo=None)
    with pytest.raises(ValueError, match="does not say which offset"):
        iso(naive)
    with pytest.raises(ValidationError):
        MOMENT.validate_python(naive)
