"""Whose turn it is: nothing starves, no crowd holds back another, and what is remembered is enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.claims import HIGHEST, PATIENCE, REMEMBERED, Claim, Claims, patience


@pytest.mark.parametrize(("priority", "passed"), [(1, 90), (5, 50), (9, 10), (10, 0)])
def test_a_priority_lets_ten_pass_for_each_level_below_the_highest(priority: int, passed: int) -> None:
    assert patience(priority) == passed


@pytest.mark.parametrize("priority", range(1, HIGHEST))
def test_under_an_endless_stream_of_the_highest_a_priority_is_taken_in_bounded_time(priority: int) -> None:
    claims, taken = Claims(), []
    for seq in range(2, 500):
        mine = claims.overdue(priority, oldest=1)
        claims.add(Claim(seq, "r", priority if mine else HIGHEST))
        taken.append(mine)
    assert taken.index(True) == patience(priority)
    assert sum(taken) == len(taken) // (patience(priority) + 1), "and again and again, at that rate"


def test_what_was_taken_before_somebody_came_does_not_make_it_overdue() -> None:
    claims = Claims()
    for seq in range(1, 200):
        claims.add(Claim(seq, "r", HIGHEST))
    assert claims.overdue(9, oldest=1)
    assert claims.overdue(9, oldest=199 - PATIENCE)
    assert not claims.overdue(9, oldest=200 - PATIENCE)
    assert not claims.overdue(HIGHEST, oldest=1), "nobody overtakes the highest"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, HIGHEST)), max_size=40))
def test_lanes_of_one_priority_take_turns(lanes: list[tuple[str, int]]) -> None:
    claims = Claims()
    for seq, (repository, priority) in enumerate(lanes, start=10):
        claims.add(Claim(seq, repository, priority))
        others = {name: claims.turn(name, priority, first=1) for name in "abc" if name != repository}
        assert claims.turn(repository, priority, first=1) == seq > max(others.values())
        assert claims.turn("new", priority, first=seq + 1) == seq + 1, "a newcomer stands behind all"


@given(st.integers(0, 3 * REMEMBERED), st.integers(1, 7))
def test_a_start_that_reads_what_is_remembered_goes_on_with_the_same_turns(last: int, lanes: int) -> None:
    history = [Claim(seq, f"r{seq * seq % lanes}", 1 + seq % HIGHEST) for seq in range(1, last + 1)]
    before, after = Claims(), Claims()
    for claim in history:
        before.add(claim)
    for claim in history[-REMEMBERED:]:
        after.add(claim)
    for priority in range(1, HIGHEST + 1):
        assert before.overdue(priority, 1) is after.overdue(priority, 1)
        for lane in range(lanes):
            assert before.turn(f"r{lane}", priority, 1) == after.turn(f"r{lane}", priority, 1)
