"""The meter of an agent, on a real journal: budgets, parking, and a provider that fails in every way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from orchestrator.agents.base import Answer, Meter, Request, ToolUnpriced
from orchestrator.agents.counted import CountedMeter
from orchestrator.agents.meter import AgentMeter
from orchestrator.agents.provider import Flight, Patience, Provider
from orchestrator.agents.provider import Place as Standing
from orchestrator.agents.purse import Purse
from orchestrator.core.admission import Ceilings
from orchestrator.core.model import NO_USAGE, AgentId, Phase, Usage
from orchestrator.core.price import Price, Prices
from orchestrator.core.spec import Budget
from orchestrator.core.spec import Ceilings as Money
from orchestrator.core.trouble import ProviderFailure, Trouble
from orchestrator.errors import (
    BudgetExceeded,
    ModelUnpriced,
    ProviderRefused,
    ProviderUnavailable,
)
from orchestrator.journal.store import Store
from orchestrator.supervise.pulse import WatchedMeter
from orchestrator.supervise.tree import Tree
from sandbox.base import User
from sandbox.probe import default_user
from sandbox.trusted import ProcessBackend
from tests.agents.doors import PatientMeter
from tests.journal.rig import running_store, work
from tests.kit.plain_meter import PlainMeter

MODEL = "m-1"
REQUEST = Request(MODEL, 1000, 1000)
#: A request of 1,000 tokens in and 1,000 out is foreseen at 0.012 USD at most, and comes to 0.0012 USD.
PRICES = Prices({MODEL: Price(input=2, output=10, cache_read=0.1, cache_write_5m=2, cache_write_1h=2)})
USED = Usage(input_tokens=100, output_tokens=100)
WAIT_S = 0.05


def no(trouble: Trouble, **more: Any) -> ProviderFailure:  # noqa: ANN401 - its own
    return ProviderFailure(trouble, "HTTP", **more)


@dataclass
class Model:
    """A provider's model that answers, or fails as it is told, first told first."""

    failures: list[ProviderFailure] = field(default_factory=list)
    usage: Usage = USED
    #: What a request waits for before it is answered.
    gate: trio.Event | None = None
    asked: int = 0
    flying: int = 0
    most: int = 0

    async def __call__(self) -> Answer:
        self.asked += 1
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            await trio.lowlevel.checkpoint()
            if self.failures:
                raise self.failures.pop(0)
            if self.gate is not None:
                await self.gate.wait()
            return Answer(MODEL, "end_turn", self.usage, "well", 1.0)
        finally:
            self.flying -= 1


@dataclass
class Place:
    """A journal with agents at work, and what they share."""

    store: Store
    provider: Provider
    purse: Purse
    user: User

    async def meter(self, name: str, **own: Any) -> tuple[AgentMeter, Tree]:  # noqa: ANN401 - a budget's
        ids = await work(self.store, f"task-{name}", name)
        tree = Tree(ProcessBackend(self.user))
        return self.of(ids, tree, Budget(**own)), tree

    def of(self, ids: dict[str, Any], tree: Tree, own: Budget) -> AgentMeter:
        return AgentMeter(
            ids,
            self.store.record,
            state=lambda: self.store.state,
            own=own,
            provider=self.provider,
            purse=self.purse,
            stillness=tree,
        )

    async def told(self, *names: str) -> list[Any]:
        found = await self.store.events_after(0, types=names, limit=1000)
        return [recorded.event for recorded in found]

    async def until(self, what: Callable[[], bool]) -> None:
        with trio.fail_after(20):
            while not what():
                await self.store.wait_past(self.store.state.seq)

    def phase(self, name: str) -> Phase | None:
        return self.store.state.agents[AgentId(name)].phase


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_place(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def open_place(home: Path, *, concurrency: int = 4, **budgets: Money) -> AsyncIterator[Place]:
    provider = Provider(Ceilings(concurrency), chance=lambda: 0.0)
    async with running_store(home) as store:
        yield Place(store, provider, Purse(PRICES, **budgets), default_user())


# --- what is asked about an agent's work


async def test_question_beside_the_agent_costs_it_and_is_no_turn_of_its(place: Place) -> None:
    meter, _ = await place.meter("a", turns=1, cost_usd=1)
    await meter.ask(REQUEST, Model(), prompt=1)
    told = len(await place.told("agent.turn"))
    await meter.ask(REQUEST, Model(), prompt=None)  # no budget of turns keeps it
    agent = place.store.state.agents[AgentId("a")]
    assert (agent.usage.turns, agent.turn, told) == (1, 1, len(await place.told("agent.turn")))
    assert agent.usage.input_tokens == 2 * USED.input_tokens
    assert agent.usage.cost_usd == pytest.approx(0.0024)


async def test_question_beside_the_agent_parks_it_and_then_goes_on_as_the_review_that_it_is(
    place: Place,
) -> None:
    meter, _ = await place.meter("a")
    await meter.ask(REQUEST, Model([no(Trouble.THROTTLED, wait_s=WAIT_S)]), prompt=None)
    assert [event.phase for event in await place.told("agent.resumed")] == [Phase.REVIEWING]
    assert place.phase("a") is Phase.REVIEWING
    assert place.store.state.agents[AgentId("a")].answered == 0


async def test_question_beside_the_agent_is_refused_where_its_budget_is_spent(place: Place) -> None:
    meter, _ = await place.meter("a", tokens=100)
    await meter.ask(REQUEST, Model(), prompt=None)
    with pytest.raises(BudgetExceeded, match="allows 100 tokens"):
        await meter.ask(REQUEST, Model(), prompt=None)


# --- budgets


async def test_a_budget_of_three_turns_stops_exactly_at_three(place: Place) -> None:
    meter, _ = await place.meter("a", turns=3)
    model = Model()
    for _ in range(3):
        await meter.ask(REQUEST, model, prompt=1)
    with pytest.raises(BudgetExceeded, match=r"options\.budget\) allows 3 turns, and 3 turns are spent"):
        await meter.ask(REQUEST, model, prompt=1)
    assert model.asked == 3
    (exceeded,) = await place.told("budget.exceeded")
    assert (exceeded.scope, exceeded.unit, exceeded.spent, exceeded.ceiling) == ("agent", "turns", 3, 3)


async def test_an_answer_is_journaled_with_what_it_cost(place: Place) -> None:
    meter, _ = await place.meter("a")
    answer = await meter.ask(REQUEST, Model(), prompt=1)
    assert answer.usage.cost_usd == pytest.approx(0.0012)
    agent = place.store.state.agents[AgentId("a")]
    assert agent.usage == USED.model_copy(update={"cost_usd": answer.usage.cost_usd, "turns": 1})


async def test_money_of_the_day_is_never_overspent_by_more_than_one_request(tmp_path: Path) -> None:
    async with open_place(tmp_path, concurrency=20, day=Money(cost_usd=0.01)) as place:
        model, ended = Model(), Counter[str]()

        async def spend(name: str) -> None:
            meter, _ = await place.meter(name)
            try:
                while True:
                    await meter.ask(REQUEST, model, prompt=1)
            except BudgetExceeded:
                ended["exceeded"] += 1

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(spend, f"a{number}")
        spent = place.store.state.spend.total.cost_usd
        assert ended["exceeded"] == 6
        assert 0.01 <= spent <= 0.01 + 0.0012
        (warned,) = await place.told("budget.warning")
        assert (warned.scope, warned.unit) == ("day", "costUsd")


async def test_requests_that_come_to_more_than_they_look_like_overspend_by_one_at_most(
    tmp_path: Path,
) -> None:
    dear = Usage(input_tokens=10_000, output_tokens=1000)  # 0.03 USD, where 0.012 are foreseen
    request = Request(MODEL, 1000, 1000, most_input_tokens=10_000)
    async with open_place(tmp_path, concurrency=20, day=Money(cost_usd=0.08)) as place:

        async def ask() -> Answer:
            await trio.testing.wait_all_tasks_blocked(WAIT_S)  # who may go by now has gone
            return Answer(MODEL, "end_turn", dear, "well", 1.0)

        async def spend(name: str) -> None:
            meter, _ = await place.meter(name)
            with suppress(BudgetExceeded):
                while True:
                    await meter.ask(request, ask, prompt=1)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(spend, f"a{number}")
        assert 0.08 <= place.store.state.spend.total.cost_usd <= 0.08 + 0.03


async def test_a_budget_of_a_task_counts_all_its_attempts_and_warns_once(place: Place) -> None:
    ids = await work(place.store, "t", "a")
    tree = Tree(ProcessBackend(place.user))
    own = Budget(task=Money(turns=5))
    for turns in (2, 2, 1):  # three lives
        meter = place.of(ids, tree, own)
        for _ in range(turns):
            await meter.ask(REQUEST, Model(), prompt=1)
        meter.close()
    with pytest.raises(BudgetExceeded, match=r"over all its attempts \(options\.budget\.task\)"):
        await place.of(ids, tree, own).check()
    assert len(await place.told("budget.warning")) == 1


async def test_tool_calls_have_a_budget(place: Place) -> None:
    meter, _ = await place.meter("a", tool_calls=3)
    await meter.check_tools(3)
    await meter.count_tools(3)
    await meter.ask(REQUEST, Model(), prompt=1)
    with pytest.raises(BudgetExceeded, match="allows 3 tool calls, and 3 tool calls are spent"):
        await meter.check_tools(1)


async def test_a_model_without_a_price_is_refused_where_money_is_counted(place: Place) -> None:
    model, unknown = Model(), Request("other", 1, 1)
    free, _ = await place.meter("a")
    await free.ask(unknown, model, prompt=1)
    bound, _ = await place.meter("b", cost_usd=1.0)
    with pytest.raises(ModelUnpriced, match="MODEL_PRICES"):
        await bound.ask(unknown, model, prompt=1)
    assert model.asked == 1


async def test_a_tool_that_no_table_has_a_price_of_is_refused_where_money_is_counted(place: Place) -> None:
    model, request = Model(), Request(MODEL, 1, 1, unpriced_tool="code_execution_20250825")
    free, _ = await place.meter("a")
    await free.ask(request, model, prompt=1)
    bound, _ = await place.meter("b", cost_usd=1.0)
    with pytest.raises(ToolUnpriced, match="code_execution_20250825"):
        await bound.ask(request, model, prompt=1)
    await bound.ask(REQUEST, model, prompt=1)
    assert model.asked == 2


@pytest.mark.parametrize("kind", [AgentMeter, CountedMeter, WatchedMeter, PlainMeter, PatientMeter])
def test_every_meter_has_what_a_meter_has(kind: type) -> None:
    assert {name for name in vars(Meter) if name[0] != "_"} <= set(dir(kind))


async def test_what_a_broken_answer_cost_is_counted(place: Place) -> None:
    meter, _ = await place.meter("a")
    broken = no(Trouble.NETWORK, begun=True, usage=Usage(input_tokens=1_000_000))
    with pytest.raises(ProviderUnavailable, match="broke off"):
        await meter.ask(REQUEST, Model([broken]), prompt=1)
    assert place.store.state.agents[AgentId("a")].usage.cost_usd == 2.0


async def test_what_a_cut_request_cost_is_counted_at_once_and_journaled_at_the_next(tmp_path: Path) -> None:
    told = Usage(input_tokens=1000, output_tokens=200)  # 0.004 USD
    async with open_place(tmp_path, day=Money(cost_usd=0.008)) as place:
        cut, other = (await place.meter("a"))[0], (await place.meter("b"))[0]
        for so_far in (lambda: told, lambda: None, lambda: NO_USAGE):  # None: the prompt's 1000 tokens
            async with trio.open_nursery() as nursery:
                model = Model(gate=trio.Event())
                request = replace(REQUEST, so_far=so_far)
                nursery.start_soon(partial(cut.ask, request, model, prompt=1))
                while not model.flying:
                    await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert place.store.state.spend.total.cost_usd == pytest.approx(0.006)  # at the asks that followed
        await cut.ask(REQUEST, Model(), prompt=1)
        total = place.store.state.spend.total
        assert total.cost_usd == pytest.approx(0.004 + 0.002 + 0.0012)
        assert (total.input_tokens, total.turns) == (2100, 1)
        async with trio.open_nursery() as nursery:
            model = Model(gate=trio.Event())
            nursery.start_soon(partial(cut.ask, replace(REQUEST, so_far=lambda: told), model, prompt=1))
            while not model.flying:
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with pytest.raises(BudgetExceeded):  # nobody asked in its name since
            await other.ask(REQUEST, Model(), prompt=1)


# --- the provider


@pytest.mark.parametrize(
    "failure",
    [
        no(Trouble.THROTTLED, wait_s=WAIT_S),
        no(Trouble.OVERLOADED, wait_s=WAIT_S),
        no(Trouble.USAGE_LIMIT),
        no(Trouble.NETWORK),
        no(Trouble.SERVER_ERROR),
    ],
    ids=lambda failure: failure.trouble.value,
)
async def test_an_agent_parks_and_goes_on_by_itself(place: Place, failure: ProviderFailure) -> None:
    meter, _ = await place.meter("a")
    if failure.trouble is Trouble.USAGE_LIMIT:
        failure.until = datetime.now(UTC) + timedelta(seconds=1)
    model = Model([failure])
    await meter.ask(REQUEST, model, prompt=1)
    (parked,), (resumed,) = await place.told("agent.parked"), await place.told("agent.resumed")
    assert (parked.reason, resumed.waited) == (failure.trouble, True)
    assert parked.until is not None
    assert place.phase("a") is Phase.WORKING
    assert place.store.state.agents[AgentId("a")].parked is None
    throttled = await place.told("provider.throttled")
    alone = failure.trouble in (Trouble.NETWORK, Trouble.SERVER_ERROR)
    assert [event.reason for event in throttled] == ([] if alone else [failure.trouble])
    assert len(await place.told("provider.recovered")) == len(throttled)


@pytest.mark.parametrize(
    ("trouble", "named"),
    [
        (Trouble.LOGIN, "CLAUDE_API_KEY"),
        (Trouble.FORBIDDEN, "CLAUDE_API_KEY"),
        (Trouble.MODEL, "CLAUDE_MODEL or options.model"),
    ],
)
async def test_what_waiting_does_not_mend_fails_at_once_for_everybody(
    place: Place, trouble: Trouble, named: str
) -> None:
    one, _ = await place.meter("a")
    other, _ = await place.meter("b")
    model = Model([no(trouble)])
    for meter in (one, other):
        with pytest.raises(ProviderRefused, match=named):
            await meter.ask(REQUEST, model, prompt=1)
    assert model.asked == 1
    if trouble is Trouble.LOGIN:
        with pytest.raises(ProviderRefused, match=named):
            await other.ask(Request("another", 1, 1), model, prompt=1)


async def test_a_provider_that_is_away_is_waited_for_within_bounds_by_everybody(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        place.provider.patience_s = 1.0
        failures = [no(Trouble.NETWORK) for _ in range(100)]
        errors: dict[str, str] = {}

        async def ask(name: str) -> None:
            meter, _ = await place.meter(name)
            with pytest.raises(ProviderUnavailable) as failed:
                await meter.ask(REQUEST, Model(failures), prompt=1)
            assert failed.value.retryable
            errors[name] = failed.value.detail

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for name in ("a", "b", "c", "d"):  # three of them close the line for all
                    nursery.start_soon(ask, name)
        for error in errors.values():
            assert error.startswith(f"{MODEL}: the provider cannot be reached (ANTHROPIC_BASE_URL): HTTP; ")
            assert error.endswith("it was waited for 1 s (PROVIDER_PATIENCE_SECONDS)")
        assert len(errors) == 4
        assert len(failures) < 100
        assert place.provider.line(MODEL).gate.in_flight == 0


def test_patience_begins_anew_with_an_answer_and_is_endless_where_the_provider_says_why() -> None:
    clock = trio.testing.MockClock()

    async def wait() -> None:
        line = Provider(Ceilings(1), patience_s=60.0).line(MODEL)
        patience, began = Patience(line), trio.current_time()
        assert patience.until(Trouble.USAGE_LIMIT) == math.inf
        assert patience.until(Trouble.NETWORK) == began + 60
        clock.jump(59)
        assert patience.until(Trouble.SERVER_ERROR) == began + 60
        line.note_success(line.gate.epoch)
        clock.jump(2)
        assert patience.until(Trouble.NETWORK) == began + 61 + 60
        clock.jump(60)
        with pytest.raises(ProviderUnavailable, match=r"waited for 60 s"):
            patience.until(Trouble.NETWORK)
        patience.renew()
        assert patience.until(Trouble.NETWORK) == began + 121 + 60

    trio.run(wait, clock=clock)


@pytest.mark.parametrize("trouble", [Trouble.LOGIN, Trouble.FORBIDDEN, Trouble.MODEL])
async def test_what_the_request_of_a_program_inside_is_refused_for_is_held_against_nobody_else(
    place: Place, trouble: Trouble
) -> None:
    hostile, _ = await place.meter("a")
    other, _ = await place.meter("b")
    failure = no(trouble)
    failure.of_program = True
    with pytest.raises(ProviderRefused):
        await hostile.ask(REQUEST, Model([failure]), prompt=1)
    assert (await other.ask(REQUEST, Model(), prompt=1)).stop_reason
    assert await place.told("provider.throttled") == []


def note_order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that tells which agents' requests were let go, in the order in which they were."""
    order: list[str] = []
    go = Standing.go

    def noted(self: Standing) -> Flight:
        order.append(self.agent_id)
        return go(self)

    monkeypatch.setattr(Standing, "go", noted)
    return order


async def test_the_ceiling_is_kept_and_nobody_is_overtaken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_place(tmp_path, concurrency=3) as place:
        order, model = note_order(monkeypatch), Model([no(Trouble.THROTTLED, wait_s=WAIT_S)])
        names = [f"a{number:02}" for number in range(12)]
        meters = [(await place.meter(name))[0] for name in names]
        async with trio.open_nursery() as nursery:
            for meter in meters:
                nursery.start_soon(partial(meter.ask, REQUEST, model, prompt=1))
                await trio.testing.wait_all_tasks_blocked()
        assert model.most <= 3
        assert [name for name in order if name != names[0]] == names[1:]
        assert order.count(names[0]) == 2  # the first was refused, and stood in line anew


async def test_one_agent_with_many_requests_takes_its_turns_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_place(tmp_path, concurrency=4) as place:
        await (await place.meter("first"))[0].ask(REQUEST, Model(), prompt=1)  # the gate is open
        order, endless = note_order(monkeypatch), Model(gate=trio.Event())
        greedy, other = (await place.meter("greedy"))[0], (await place.meter("other"))[0]
        async with trio.open_nursery() as nursery:
            for _ in range(32):
                nursery.start_soon(partial(greedy.ask, REQUEST, endless, prompt=1))
            await trio.testing.wait_all_tasks_blocked()
            assert endless.asked == 3
            with trio.fail_after(20):
                for _ in range(3):
                    await other.ask(REQUEST, Model(), prompt=1)
            assert order == ["greedy"] * 3 + ["other"] * 3
            nursery.cancel_scope.cancel()
        assert place.provider.line(MODEL).idle


async def test_failures_that_one_agent_alone_meets_keep_no_other_waiting(place: Place) -> None:
    hostile, other = (await place.meter("a"))[0], (await place.meter("b"))[0]
    failures = [no(Trouble.SERVER_ERROR) for _ in range(100)]
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(partial(hostile.ask, REQUEST, Model(failures), prompt=1))
        with trio.fail_after(20):
            while len(failures) > 95:  # each waits longer and longer for itself
                await place.store.wait_past(place.store.state.seq)
        assert place.provider.line(MODEL).gate.closed is None
        assert (await other.ask(REQUEST, Model(), prompt=1)).stop_reason
        nursery.cancel_scope.cancel()
    assert await place.told("provider.throttled") == []


async def test_no_time_passes_while_an_agent_is_parked_and_a_freeze_composes_with_it(place: Place) -> None:
    meter, tree = await place.meter("a")
    model = Model([no(Trouble.THROTTLED, wait_s=3600)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: meter.ask(REQUEST, model, prompt=1))
        await place.until(lambda: place.phase("a") is Phase.PARKED)
        stood = tree.clock.now()
        tree.freeze_nowait()
        tree.thaw_nowait()
        await trio.lowlevel.checkpoint()
        assert tree.clock.now() == stood
        tree.freeze_nowait()
        nursery.cancel_scope.cancel()
    assert tree.clock.now() == stood
    tree.thaw_nowait()
    assert tree.clock.now() >= stood
    assert place.provider.line(MODEL).gate.in_flight == 0


async def test_who_is_frozen_asks_nothing_until_thawed_and_keeps_nobody_waiting(place: Place) -> None:
    frozen, tree = await place.meter("a")
    other, _ = await place.meter("b")
    model = Model()
    tree.freeze_nowait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: frozen.ask(REQUEST, model, prompt=1))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert model.asked == 0
        await other.ask(REQUEST, model, prompt=1)
        tree.thaw_nowait()
    assert model.asked == 2


async def test_who_is_cancelled_leaves_the_line_to_the_others(place: Place) -> None:
    meters = [(await place.meter(name))[0] for name in ("a", "b", "c")]
    model = Model(gate=trio.Event())
    assert model.gate is not None
    async with trio.open_nursery() as nursery:
        scopes = [trio.CancelScope() for _ in meters]

        async def ask(number: int) -> None:
            with scopes[number]:
                await meters[number].ask(REQUEST, model, prompt=1)

        for number in range(3):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert model.asked == 1  # a new gate tries one first
        scopes[1].cancel()
        scopes[0].cancel()
        model.gate.set()
    assert model.asked == 2
    assert place.provider.line(MODEL).gate.in_flight == 0
