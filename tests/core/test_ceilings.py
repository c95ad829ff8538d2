"""Who is beyond a ceiling that is only watched, and who has to go where the host's memory is all but gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.ceilings import (
    FILES_PER_MB,
    HARD_MARK_MB,
    MEASURES,
    MIN_FILES,
    Excess,
    beyond_ceiling,
    describe_pressure,
    file_ceiling,
    find_excess,
    find_victim,
)
from orchestrator.core.model import Reason
from orchestrator.core.policy import retry_can_help
from orchestrator.core.watermark import WATERMARKS

WATCHED = frozenset({"memory_mb", "pids", "disk_mb"})
CEILINGS = dict.fromkeys(MEASURES, 100.0)


@pytest.mark.parametrize("measure", MEASURES)
def test_each_measure_is_judged_only_where_its_ceiling_is_watched(measure: str) -> None:
    assert find_excess({measure: 101}, CEILINGS, WATCHED) == Excess(measure, 101, 100)
    assert find_excess({measure: 100}, CEILINGS, WATCHED) is None
    assert find_excess({}, CEILINGS, WATCHED) is None
    assert find_excess({measure: 101}, {}, WATCHED) is None
    assert find_excess({measure: 101}, {measure: None}, WATCHED) is None
    assert find_excess({measure: 101}, CEILINGS, WATCHED - {MEASURES[measure][0]}) is None


def test_memory_is_named_before_all_else() -> None:
    found = find_excess(dict.fromkeys(MEASURES, 300.4), {**CEILINGS, "memory_mb": 256}, WATCHED)
    assert found is not None
    assert found.of_memory
    assert str(found) == "it used 300 MB of memory, and 256 are allowed"


def test_memory_is_oom_and_all_else_an_allowance_that_no_retry_enlarges() -> None:
    assert beyond_ceiling(oom=True) is Reason.OOM
    assert beyond_ceiling(oom=False) is Reason.BUDGET_EXCEEDED
    assert not retry_can_help(Reason.BUDGET_EXCEEDED)
    assert retry_can_help(Reason.OOM), "the host may have had too little, which passes"


def test_files_are_as_many_as_the_disk_could_hold_and_enough_for_a_checkout() -> None:
    assert file_ceiling(1) == MIN_FILES
    assert file_ceiling(10240) == 10240 * FILES_PER_MB


@given(left=st.floats(0, 1000), used=st.dictionaries(st.text(max_size=3), st.floats(0, 10_000), max_size=6))
def test_the_largest_is_ended_only_below_the_hard_mark_and_only_where_it_helps(
    left: float, used: dict[str, float]
) -> None:
    victim = find_victim(left, used)
    most = max(used.values(), default=0)
    assert (victim is not None) == (left < HARD_MARK_MB <= most)
    assert victim is None or used[victim] == most >= sum(used.values()) / len(used) - 1e-6


def test_admission_stops_before_anybody_is_ended_and_the_end_names_both_figures() -> None:
    assert WATERMARKS["memory"] > HARD_MARK_MB
    said = describe_pressure(12.3, 4567.8)
    assert "12 MB left" in said
    assert "4568 MB" in said
