"""The skips that a run of the whole suite accepts, each with its reason: `tests/allowed-skips.txt`.

A test that is skipped proves nothing, so under `CI=true` one that the list does not name fails the run.
Called by `tests/conftest.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

LIST = Path(__file__).parents[1] / "allowed-skips.txt"


def read_patterns(text: str) -> list[re.Pattern[str]]:
    """Return the patterns of the list: one regular expression a line, `#` begins a comment line."""
    lines = (line.strip() for line in text.splitlines())
    return [re.compile(line) for line in lines if line and not line.startswith("#")]


def unlisted(skips: list[tuple[str, str]], patterns: list[re.Pattern[str]]) -> list[str]:
    """Return the (test, reason) pairs, one a line, that no pattern matches as `test: reason`."""
    lines = [f"{test}: {reason}" for test, reason in skips]
    return [line for line in lines if not any(pattern.search(line) for pattern in patterns)]
