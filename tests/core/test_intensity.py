"""How often something may go wrong before it is not tried for a while."""

from __future__ import annotations

from datetime import timedelta

from orchestrator.core.intensity import (
    FAILURE_WINDOW,
    HOLD,
    HOLD_CEILING,
    MAX_CRASHED_STARTS,
    MAX_FAILURES,
    START_WINDOW,
    held_until,
    starts_too_often,
)
from tests.core.ledger import NOON

SECOND = timedelta(seconds=1)


def test_a_few_failures_hold_nobody_back() -> None:
    assert held_until([]) is None
    assert held_until([NOON] * (MAX_FAILURES - 1)) is None


def test_the_hold_grows_with_every_failure_up_to_a_ceiling() -> None:
    assert held_until([NOON] * MAX_FAILURES) == NOON + HOLD
    assert held_until([NOON] * (MAX_FAILURES + 1)) == NOON + 2 * HOLD
    assert held_until([NOON] * 1000) == NOON + HOLD_CEILING


def test_failures_that_are_far_apart_are_no_trouble() -> None:
    apart = FAILURE_WINDOW / (MAX_FAILURES - 1)
    times = [NOON + number * apart for number in range(MAX_FAILURES)]
    assert held_until(times) == times[-1] + HOLD
    assert held_until([NOON - SECOND, *times[1:]]) is None


def test_only_crashes_of_late_count() -> None:
    crashed = [NOON] * (MAX_CRASHED_STARTS - 1)
    assert not starts_too_often(crashed, NOON)
    assert starts_too_often([*crashed, NOON], NOON)
    assert starts_too_often([*crashed, NOON], NOON + START_WINDOW)
    assert not starts_too_often([*crashed, NOON], NOON + START_WINDOW + SECOND)
