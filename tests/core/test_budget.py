"""Budgets: no sequence of requests, however they overlap, spends more than its one last request beyond."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.budget import (
    Account,
    Scope,
    Spent,
    Unit,
    Wait,
    over_tool_calls,
    refusal,
    spent_up,
    warnings,
)
from orchestrator.core.model import NO_USAGE, Usage
from orchestrator.core.price import LongRates, Price, Prices
from orchestrator.core.spec import Ceilings


@dataclass
class Play:
    """Requests that overlap as hypothesis likes, against one budget."""

    ceilings: Ceilings
    spent: Usage = NO_USAGE
    flying: list[tuple[Usage, Usage]] = field(default_factory=list)

    def account(self) -> Account:
        reserved = NO_USAGE
        for most, _ in self.flying:
            reserved = reserved.plus(most)
        return Account(Scope.DAY, self.ceilings, self.spent, reserved)

    def ask(self, most: Usage, real: Usage) -> Spent | Wait | None:
        found = refusal([self.account()], most)
        if found is None:
            self.flying.append((most, real))
        return found

    def answer(self, which: int) -> None:
        if self.flying:
            self.spent = self.spent.plus(self.flying.pop(which % len(self.flying))[1])


def request(tokens: int) -> Usage:
    return Usage(input_tokens=tokens, cost_usd=tokens / 1000, turns=1)


MOVES = st.lists(st.tuples(st.booleans(), st.integers(1, 500), st.integers(0, 100)), max_size=60)


@given(MOVES, st.integers(1, 2000))
def test_no_budget_is_overspent_by_more_than_one_request(
    moves: list[tuple[bool, int, int]], ceiling: int
) -> None:
    play = Play(Ceilings(tokens=ceiling, cost_usd=ceiling / 1000))
    for asks, tokens, share in moves:
        if asks:
            play.ask(request(tokens), request(tokens * share // 100))
        else:
            play.answer(tokens)
        worst = play.account().spent.plus(play.account().reserved)
        alone = max((most.tokens for most, _ in play.flying), default=500)
        assert worst.tokens < ceiling + max(alone, 500)
        assert len(play.flying) <= 1 or worst.tokens <= ceiling or play.spent.tokens < ceiling


@given(MOVES, st.integers(1, 8))
def test_turns_are_never_overspent(moves: list[tuple[bool, int, int]], ceiling: int) -> None:
    play = Play(Ceilings(turns=ceiling))
    for asks, tokens, _ in moves:
        if asks:
            play.ask(request(tokens), request(tokens))
        else:
            play.answer(tokens)
        assert play.spent.turns + len(play.flying) <= ceiling


def test_three_turns_stop_exactly_at_three() -> None:
    play = Play(Ceilings(turns=3))
    for _ in range(3):
        assert play.ask(request(1), request(1)) is None
    assert play.ask(request(1), request(1)) == Wait()
    for _ in range(3):
        play.answer(0)
    found = play.ask(request(1), request(1))
    assert isinstance(found, Spent)
    assert str(found.mark) == "the budget of the day, UTC (BUDGET_DAY_) allows 3 turns, and 3 turns are spent"


def test_a_request_that_is_alone_may_be_the_one_that_reaches_the_ceiling() -> None:
    most, real = request(100_000), request(20)
    play = Play(Ceilings(cost_usd=0.01))
    assert play.ask(most, real) is None
    assert play.ask(most, real) == Wait()
    play.answer(0)
    assert isinstance(play.ask(most, real), Spent)
    assert isinstance(spent_up([play.account()]), Spent)


def test_money_that_was_added_up_in_pieces_reaches_its_ceiling() -> None:
    play = Play(Ceilings(cost_usd=0.3))
    for _ in range(3):
        assert play.ask(Usage(cost_usd=0.1), Usage(cost_usd=0.1)) is None
        play.answer(0)
    assert isinstance(play.ask(Usage(cost_usd=0.1), Usage(cost_usd=0.1)), Spent)


def test_tool_calls_are_refused_before_they_are_made() -> None:
    account = Account(Scope.TASK, Ceilings(tool_calls=5), Usage(tool_calls=3))
    assert over_tool_calls([account], 2) is None
    found = over_tool_calls([account], 3)
    assert found is not None
    assert found.mark.unit is Unit.TOOL_CALLS
    assert spent_up([account]) is None


@given(st.integers(1, 1000), st.integers(0, 2000))
def test_a_warning_comes_at_four_fifths(ceiling: int, spent: int) -> None:
    found = warnings([Account(Scope.AGENT, Ceilings(tokens=ceiling), Usage(output_tokens=spent))])
    assert bool(found) is (spent >= ceiling * 0.8)


# --- prices

RATES = {"input": 2.0, "output": 10.0, "cache_read": 0.1, "cache_write_5m": 2.5, "cache_write_1h": 4.0}
LONG = LongRates(above_tokens=1000, **{name: 2 * rate for name, rate in RATES.items()})
PRICE = Price(**RATES, long=LONG)


def test_cost_counts_every_kind_of_token_by_its_rate() -> None:
    million = 1_000_000
    plain = Price(**RATES)
    assert plain.of(Usage(input_tokens=million)) == 2
    assert plain.of(Usage(output_tokens=million)) == 10
    assert plain.of(Usage(cache_read_tokens=million)) == pytest.approx(0.1)
    assert plain.of(Usage(cache_write_tokens=million)) == 2.5
    assert plain.of(Usage(cache_write_tokens=million, cache_write_1h_tokens=million)) == 4


def test_a_long_prompt_makes_the_whole_request_dearer() -> None:
    assert PRICE.of(Usage(input_tokens=500, cache_read_tokens=500, output_tokens=10)) == pytest.approx(
        0.00115
    )
    assert PRICE.of(Usage(input_tokens=501, cache_read_tokens=500, output_tokens=10)) == pytest.approx(
        2 * (501 * 2 + 50 + 100) / 1e6
    )


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 3000))
def test_no_answer_costs_more_than_was_foreseen(plain: int, read: int, written: int, output: int) -> None:
    usage = Usage(
        input_tokens=plain,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=written // 2,
        output_tokens=output,
    )
    assert PRICE.of(usage) <= PRICE.most(plain + read + written, output) + 1e-12


@pytest.mark.parametrize(
    ("name", "known"),
    [("m-1", True), ("m-1-20260101", True), ("m-1[1m]", True), ("m-1-20260101[1m]", True), ("m-12", False)],
)
def test_a_snapshot_has_the_price_of_its_model(name: str, *, known: bool) -> None:
    assert (Prices({"m-1": PRICE}).find(name) is PRICE) is known
