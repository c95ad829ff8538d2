"""How often something may go wrong before it is not tried for a while."""

from __future__ import annotations

from datetime import timedelta

from orchestrator.core.intensity import (
    FAILURE_WINDOW,
    HOLD,
    HOLD_CEILING,
    MAX_CRASHED_STARTS,
    MAX_FAILURES,
    START_HOLD_CEILING_S,
    START_HOLD_S,
    START_WINDOW,
    held_until,
    start_hold_s,
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
    assert start_hold_s(crashed, NOON) == 0
    assert start_hold_s([*crashed, NOON], NOON) == START_HOLD_S
    assert start_hold_s([*crashed, NOON], NOON + START_WINDOW) == START_HOLD_S
    assert start_hold_s([*crashed, NOON], NOON + START_WINDOW + SECOND) == 0


def test_each_crash_more_is_held_longer_up_to_a_ceiling() -> None:
    crashed = [NOON] * MAX_CRASHED_STARTS
    assert start_hold_s([*crashed, NOON], NOON) == 2 * START_HOLD_S
    assert start_hold_s(crashed * 1000, NOON) == START_HOLD_CEILING_S
