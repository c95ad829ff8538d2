"""Where times and ids come from, which a journal cannot derive. The store takes others for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from secrets import token_hex

PAGE_BYTES = 4096


def utc_now() -> datetime:
    """Return the time for people (J12: order is by sequence, durations are by the monotonic clock)."""
    return datetime.now(UTC)


def _random_uuids() -> Iterator[str]:
    """Yield random UUIDs (version 4), a page of the system's randomness at a time.

    An append needs one for every event; asked for one by one they would be a tenth of its time.
    """
    while True:
        page = token_hex(PAGE_BYTES)
        for start in range(0, len(page), 32):
            text = page[start : start + 32]
            yield (f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}")


#: The two bits that say which kind of UUID it is, put over the digit that is there.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}

#: Return a random UUID.
new_uuid: Callable[[], str] = _random_uuids().__next__
