"""Branches that nobody lands on. Pure; called by `supervise.desk`, at submission, and by `delivery`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

#: Stands for the remote's default branch, whatever it is called.
DEFAULT = "HEAD"


def guard_of(branch: str, patterns: Sequence[str], default: str | None = None) -> str | None:
    """Return the pattern that protects a branch, or None; `default` is the remote's, where it is known."""
    for pattern in patterns:
        if fnmatchcase(branch, pattern) or (pattern == DEFAULT and branch == default):
            return pattern
    return None
