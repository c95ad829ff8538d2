"""Which commits of a branch are one task's own."""

from __future__ import annotations

import pytest

from orchestrator.core.lineage import foot_of


@pytest.mark.parametrize(
    ("tip", "foot"),
    [
        ("c3", "base"),  # three commits over a base, the last of which was journaled
        ("d1", "base"),  # made over what an earlier attempt had landed
        ("theirs", None),
        ("c2", None),  # somebody took the last one off: that is theirs to have done
        ("odd", "odd"),
    ],
)
def test_only_below_a_commit_that_was_journaled_everything_is_the_tasks_own(
    tip: str, foot: str | None
) -> None:
    assert foot_of(tip, {"c3": "base", "d1": "c3", "odd": "odd"}) == foot
