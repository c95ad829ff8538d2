"""Who goes first, how long to wait, and whether trying again can help."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.model import Control, Phase, Reason, State, changed
from orchestrator.core.policy import (
    MAX_CRASHES,
    RETRY_CEILING_S,
    backoff_s,
    free_slots,
    is_due,
    may_leave_queue,
    may_run_beside,
    order_key,
    retry_can_help,
    worst_active,
)
from tests.core.ledger import Ledger


def test_higher_priority_goes_first_and_the_older_of_equals() -> None:
    ledger = Ledger().open()
    for agent_id, priority in (("low", 1), ("first", 5), ("second", 5), ("high", 10)):
        ledger.add(f"t-{agent_id}", agent_id, priority=priority)
    line = sorted(ledger.state.agents.values(), key=order_key)
    assert [agent.id for agent in line] == ["high", "first", "second", "low"]


def test_a_retry_goes_behind_those_who_waited_before_it() -> None:
    ledger = Ledger().open()
    ledger.start("t1", "a")
    ledger.add("t2", "b")
    ledger.fail("a", then="a2")
    line = sorted((agent for agent in ledger.state.agents.values() if agent.live), key=order_key)
    assert [agent.id for agent in line] == ["b", "a2"]


@pytest.mark.parametrize(
    ("attempt", "least", "most"),
    [(-5, 0.5, 1), (0, 0.5, 1), (1, 0.5, 1), (2, 1, 2), (5, 8, 16), (10, 150, 300), (10**9, 150, 300)],
)
def test_backoff_doubles_up_to_its_ceiling(attempt: int, least: float, most: float) -> None:
    assert backoff_s(attempt, 0.0) == pytest.approx(least)
    assert backoff_s(attempt, 0.999_999) == pytest.approx(most, rel=1e-5)


@given(attempt=st.integers(1, 10**18), chance=st.floats(0, 1, exclude_max=True))
def test_backoff_never_overflows_nor_leaves_its_bounds(attempt: int, chance: float) -> None:
    assert 0.5 <= backoff_s(attempt, chance) <= RETRY_CEILING_S
    assert backoff_s(attempt, chance) <= 2 * backoff_s(attempt, 0.0), (
        "nobody waits less than half of the most"
    )
    assert backoff_s(attempt, 0.0) <= backoff_s(attempt + 1, 0.0)


@pytest.mark.parametrize("after_s", [-1, 0, 1])
def test_an_agent_is_due_from_its_time_on(after_s: int) -> None:
    ledger = Ledger().open()
    ledger.start()
    assert is_due(ledger.agent(), ledger.now), "without a backoff it is due at once"
    ledger.fail(then="b")
    due = ledger.agent("b").not_before
    assert due is not None
    assert is_due(ledger.agent("b"), due + timedelta(seconds=after_s)) is (after_s >= 0)
    assert is_due(ledger.agent("b"), due - timedelta(days=1)), "no backoff is so long: the clock was set back"


@pytest.mark.parametrize("control", [Control(paused=True), Control(frozen=True), Control(draining=True)])
def test_no_slot_is_free_while_nothing_may_leave_the_queue(control: Control) -> None:
    assert not may_leave_queue(control)
    assert free_slots(State(control=control)) == 0


@pytest.mark.parametrize(
    ("at_once", "agents", "active", "free"), [(3, 5, 0, 3), (5, 3, 1, 2), (1, 1, 1, 0), (1, 9, 4, 0)]
)
def test_free_slots_are_the_lower_ceiling_less_the_active(
    at_once: int, agents: int, active: int, free: int
) -> None:
    control = Control(queue_concurrency=at_once, max_agents=agents)
    assert free_slots(State(control=control, active=active)) == free


@given(
    crashes=st.integers(0, MAX_CRASHES),
    others=st.lists(st.tuples(st.integers(0, MAX_CRASHES), st.booleans())),
)
def test_no_one_on_its_last_chance_runs_beside_another_whom_a_crash_cut(
    crashes: int, others: list[tuple[int, bool]]
) -> None:
    ledger = Ledger().open()
    ledger.add("t", "a")
    waits = ledger.agent("a")
    beside = [
        changed(waits, crashes=cut, phase=Phase.WORKING if active else Phase.QUEUED) for cut, active in others
    ]
    cut = [other.crashes for other in beside if other.active and other.crashes]
    last = MAX_CRASHES - 1
    meets = bool(crashes and cut) and (crashes >= last or max(cut) >= last)
    assert may_run_beside(changed(waits, crashes=crashes), worst_active(beside)) is not meets


def test_every_reason_is_either_bad_luck_or_final() -> None:
    helped = {reason for reason in Reason if retry_can_help(reason)}
    assert helped >= {Reason.TIMEOUT, Reason.OOM, Reason.REPOSITORY_ERROR, Reason.PROVIDER_UNAVAILABLE}
    assert not helped & {
        Reason.OPERATOR,
        Reason.KILLSWITCH,
        Reason.CRASH_LOOP,
        Reason.GATE_REJECTED,
        Reason.POLICY_VIOLATION,
        Reason.SECRET_DETECTED,
        Reason.BUDGET_EXCEEDED,
    }
