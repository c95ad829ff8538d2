"""What was spent, as columns and JSON arrays, and back again to the last bit. For `rows` and `archive`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any

from orchestrator.core.model import Spend, Usage

#: In the order of the columns of the table `spend`; further ones come at the end.
_USAGE = (
    "input_tokens", "output_tokens", "cost_usd", "turns", "tool_calls", "cache_read_tokens",
    "cache_write_tokens", "cache_write_1h_tokens",
)  # fmt: skip


def figures(usage: Usage) -> list[Any]:
    """Return what was used, as plain values."""
    return [getattr(usage, name) for name in _USAGE]


def read_figures(values: Iterable[Any]) -> Usage:
    """Return what was used; rows of an older version have fewer figures."""
    return Usage(**dict(zip(_USAGE, values, strict=False)))


def spend_row(spend: Spend) -> list[Any]:
    """Return the row of the spend's latest day, in the order of `statements.SPEND`."""
    return [str(spend.day), *figures(spend.latest)]


def read_spend(days: Iterable[tuple[Any, ...]]) -> Spend:
    """Return the spend of all days, oldest first: added up in the order in which it was folded."""
    spend = Spend()
    for day, *values in days:
        spend = spend.plus(read_figures(values), date.fromisoformat(day))
    return spend
