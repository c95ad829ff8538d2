"""The gate before a provider: whatever requests do, no ceiling is passed and no herd runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.admission import (
    CROWDED,
    LONGEST_S,
    PROBE_S,
    RATE,
    Ceilings,
    Closed,
    Fault,
    Gate,
    Hold,
    backoff_s,
    begin,
    end,
    fail,
    hold,
    refuse,
    succeed,
)
from orchestrator.core.trouble import Trouble

PASSING = [trouble for trouble in Trouble if trouble.passes]


@dataclass
class Traffic:
    """Requests that all want to go at once, and a provider that does with them as it is told."""

    ceilings: Ceilings = field(default_factory=lambda: Ceilings(8))
    gate: Gate = field(default_factory=Gate)
    now: float = 1000.0
    #: The epoch in which each request in flight began.
    flying: list[int] = field(default_factory=list)
    chance: float = 0.0

    def go(self, tokens: int = 1) -> Hold | None:
        found = hold(self.gate, self.ceilings, tokens, self.now)
        if found is None:
            self.gate = begin(self.gate, self.ceilings, tokens, self.now)
            self.flying.append(self.gate.epoch)
        return found

    def go_all(self) -> int:
        before = len(self.flying)
        while self.go() is None:
            continue
        return len(self.flying) - before

    def land(self, which: int = 0, unused: int = 0) -> int:
        epoch = self.flying.pop(which)
        self.gate = end(self.gate, self.ceilings, epoch, unused, self.now)
        return epoch

    def answer(self, which: int = 0) -> None:
        epoch = self.land(which)
        self.gate = succeed(self.gate, self.ceilings, epoch)

    def fail(
        self, trouble: Trouble, which: int = 0, wait_s: float | None = None, agent: str | None = None
    ) -> None:
        epoch, fault = self.land(which), Fault(trouble, "no", wait_s, agent_id=agent)
        self.gate = fail(self.gate, epoch, fault, self.now, self.chance)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["go", "go", "go", "answer", "fail", "drop", "time"]),
        st.integers(0, 30),
        st.sampled_from(list(Trouble)),
        st.one_of(st.none(), st.floats(0, 100)),
    ),
    max_size=120,
)


@given(MOVES, st.integers(1, 6))
def test_no_ceiling_is_passed_and_nobody_goes_through_a_closed_gate(
    moves: list[tuple[str, int, Trouble, float | None]], concurrency: int
) -> None:
    traffic, answers = Traffic(Ceilings(concurrency)), 0
    for move, number, trouble, wait_s in moves:
        epoch, was_closed = traffic.gate.epoch, traffic.gate.closed
        which = number % len(traffic.flying) if traffic.flying else 0
        if move == "go":
            went = traffic.go() is None
            assert not (went and was_closed is not None and traffic.now < was_closed.until)
        elif move == "time":
            traffic.now += number
        elif traffic.flying and move == "answer":
            answers += traffic.flying[which] == epoch
            traffic.answer(which)
        elif traffic.flying and move == "fail":
            traffic.fail(trouble, which, wait_s)
        elif traffic.flying:
            traffic.land(which)
        if traffic.gate.epoch != epoch:
            answers = 0
        assert traffic.gate.in_flight == len(traffic.flying) <= concurrency
        assert traffic.gate.fresh == traffic.flying.count(traffic.gate.epoch)
        if traffic.gate.ramping:  # one, one more for each answer, and one where the first takes its time
            assert traffic.gate.fresh <= answers + 2
    traffic.now += LONGEST_S + 31
    while traffic.flying:
        traffic.land()
    assert traffic.go() is None  # an empty gate opens in the end, whatever came before


def test_after_a_throttling_one_goes_and_then_twice_as_many_each_round() -> None:
    traffic = Traffic()
    traffic.go()
    traffic.answer()
    assert traffic.go_all() == 8
    traffic.fail(Trouble.THROTTLED, wait_s=30)
    for _ in range(7):
        traffic.answer()
    assert traffic.go_all() == 0
    traffic.now += 31
    for expected in (1, 2, 4, 8, 8):
        assert traffic.go_all() == expected
        for _ in range(expected):
            traffic.answer()
    assert not traffic.gate.ramping


def test_a_new_gate_tries_one_and_lets_all_in_when_it_is_answered_or_takes_its_time() -> None:
    traffic = Traffic()
    assert traffic.go_all() == 1
    assert traffic.go() == Hold(CROWDED, traffic.now + PROBE_S)
    traffic.now += PROBE_S
    assert traffic.go_all() == 7
    assert traffic.go() == Hold(CROWDED, math.inf)


def test_of_many_that_fail_at_once_the_first_closes_and_the_others_only_know_better_times() -> None:
    traffic = Traffic(gate=Gate(window=8))
    traffic.go_all()
    traffic.fail(Trouble.OVERLOADED)
    closed = traffic.gate.closed
    traffic.fail(Trouble.OVERLOADED)
    assert traffic.gate.closed == closed
    traffic.fail(Trouble.THROTTLED, wait_s=50)
    assert traffic.gate.closed is not None
    assert traffic.gate.closed.until == traffic.now + 50
    assert traffic.gate.failures == 1


def test_one_cut_stream_is_its_own_trouble_and_three_in_a_row_are_everybodys() -> None:
    traffic = Traffic(gate=Gate(window=8))
    traffic.go_all()
    for trouble in (Trouble.NETWORK, Trouble.SERVER_ERROR):
        traffic.fail(trouble)
        assert traffic.gate.closed is None
    traffic.fail(Trouble.NETWORK)
    assert traffic.gate.closed is not None


@pytest.mark.parametrize("trouble", [Trouble.NETWORK, Trouble.SERVER_ERROR])
def test_what_one_agent_alone_meets_again_and_again_closes_nothing(trouble: Trouble) -> None:
    traffic = Traffic(gate=Gate(window=8))
    for _ in range(20):
        traffic.go()
        traffic.fail(trouble, agent="a")
        assert traffic.gate.closed is None
    for agent in "ba":
        traffic.go()
        traffic.fail(trouble, agent=agent)
    assert traffic.gate.closed is not None  # nobody is answered


def test_one_agent_keeps_no_closed_gate_from_opening_to_others() -> None:
    traffic = Traffic(gate=Gate(window=8))
    for agent in "aba":
        traffic.go()
        traffic.fail(Trouble.NETWORK, agent=agent)
    closed = traffic.gate.closed
    assert closed is not None
    traffic.now = closed.until
    for _ in range(3):
        assert traffic.go() is None
        traffic.fail(Trouble.NETWORK, agent="a")
    assert traffic.gate.closed == closed
    assert traffic.go() is None  # at once, whoever that is
    traffic.fail(Trouble.NETWORK, agent="b")
    assert traffic.gate.closed.until > traffic.now
    assert traffic.gate.failures == 4


@pytest.mark.parametrize("trouble", [Trouble.LOGIN, Trouble.FORBIDDEN, Trouble.MODEL])
def test_what_waiting_does_not_mend_is_refused_for_a_bounded_time(trouble: Trouble) -> None:
    traffic = Traffic()
    traffic.go()
    traffic.fail(trouble)
    closed = traffic.gate.closed
    assert closed is not None
    assert closed.refused
    traffic.now = closed.until
    assert traffic.go_all() == 1
    traffic.answer()
    assert traffic.gate.closed is None


def test_a_bad_request_says_nothing_about_the_others() -> None:
    traffic = Traffic(gate=Gate(window=8))
    traffic.go()
    traffic.fail(Trouble.REQUEST)
    assert traffic.gate.closed is None
    assert traffic.gate.failures == 0
    assert traffic.go_all() == 8


def test_what_one_gate_learns_of_a_key_closes_another() -> None:
    closed = Closed(Trouble.LOGIN, "no", 1030.0)
    traffic = Traffic(gate=refuse(Gate(window=8), closed))
    assert traffic.go() == Hold("login", 1030.0)


@given(st.lists(st.tuples(st.integers(1, 400), st.floats(0, 40)), min_size=1, max_size=40))
def test_tokens_flow_no_faster_than_the_ceiling(requests: list[tuple[int, float]]) -> None:
    traffic = Traffic(Ceilings(1000, tokens_per_minute=300), Gate(window=1000))
    drawn, began = 0.0, traffic.now
    for tokens, pause in requests:
        traffic.now += pause
        while (found := traffic.go(tokens)) is not None:
            assert found.reason == RATE
            assert found.until > traffic.now
            traffic.now = found.until
        drawn += tokens
        # A minute's worth at once, and one that is larger than that.
        assert drawn <= 300 + (traffic.now - began) * 5 + max(0, tokens - 300) + 100.01


def test_tokens_that_were_not_used_flow_back() -> None:
    traffic = Traffic(Ceilings(10, tokens_per_minute=100), Gate(window=10))
    assert traffic.go(90) is None
    assert traffic.go(20) == Hold(RATE, pytest.approx(traffic.now + 6))
    traffic.land(unused=80)
    assert traffic.go(20) is None


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_bounded_and_spread(failures: int, chance: float) -> None:
    assert 0.5 <= backoff_s(failures, chance) <= 60


@given(st.sampled_from(PASSING), st.one_of(st.none(), st.floats(-1e9, 1e300)), st.floats(0, 1))
def test_whatever_a_provider_asks_for_the_wait_is_bounded(
    trouble: Trouble, wait_s: float | None, chance: float
) -> None:
    gate = Gate()
    for _ in range(3):
        gate = fail(gate, gate.epoch, Fault(trouble, "", wait_s), 0.0, chance)
    assert gate.closed is not None
    assert 0 <= gate.closed.until <= LONGEST_S + 30
