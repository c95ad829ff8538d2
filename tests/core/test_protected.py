"""Which branches nobody lands on."""

from __future__ import annotations

import pytest

from orchestrator.core.protected import guard_of

PATTERNS = ("HEAD", "main", "release/*")


@pytest.mark.parametrize(
    ("branch", "default", "guard"),
    [
        ("main", None, "main"),
        ("release/1.2", None, "release/*"),
        ("trunk", "trunk", "HEAD"),
        ("trunk", "main", None),
        ("Main", None, None),
        ("agent/main", None, None),
    ],
)
def test_a_branch_is_protected_by_name_by_glob_or_as_the_remotes_default(
    branch: str, default: str | None, guard: str | None
) -> None:
    assert guard_of(branch, PATTERNS, default) == guard
    assert guard_of(branch, (), default) is None
