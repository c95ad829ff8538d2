"""One run for all who ask at once, and nothing remembered of what nobody asks for."""

from __future__ import annotations

import gc

import trio
import trio.testing

from orchestrator.errors import BranchMissing
from orchestrator.repo.checkouts import Checkouts
from orchestrator.repo.single_flight import Flights, SingleFlight
from tests.repo.stage import Stage


async def test_many_who_ask_at_once_share_a_run_that_began_after_they_asked() -> None:
    runs: list[trio.Event] = []

    async def work() -> int:
        runs.append(trio.Event())
        await runs[-1].wait()
        return len(runs)

    flight = SingleFlight(work)
    got: list[int] = []

    async def ask() -> None:
        got.append(await flight.get())

    async with trio.open_nursery() as askers:
        askers.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(20):
            askers.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        runs[0].set()
        await trio.testing.wait_all_tasks_blocked()
        runs[1].set()
    assert got == [1] + [2] * 20


async def test_a_cancelled_runner_hands_over_and_a_failure_is_told_to_all() -> None:
    fail = False
    runs = 0

    async def work() -> str:
        nonlocal runs
        runs += 1
        if runs == 1:
            await trio.sleep_forever()
        if fail:
            raise BranchMissing("no such branch")
        return "done"

    flight = SingleFlight(work)
    refused = 0

    async def ask() -> None:
        nonlocal refused
        try:
            assert await flight.get() == "done"
        except BranchMissing:
            refused += 1

    async with trio.open_nursery() as askers:
        first = trio.CancelScope()

        async def cancelled() -> None:
            with first:
                await flight.get()

        askers.start_soon(cancelled)
        await trio.testing.wait_all_tasks_blocked()
        askers.start_soon(ask)
        askers.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
    assert runs == 2
    fail = True
    async with trio.open_nursery() as askers:
        for _ in range(5):
            askers.start_soon(ask)
    assert refused == 5
    assert runs == 3


async def test_a_key_is_forgotten_when_the_last_who_asked_has_landed() -> None:
    flights: Flights[str, str] = Flights()
    gates = {"a": trio.Event(), "b": trio.Event()}
    got: list[str] = []

    async def ask(key: str) -> None:
        async def work() -> str:
            await gates[key].wait()
            return key

        got.append(await flights.get(key, work))

    async with trio.open_nursery() as askers:
        for key in "aaabb":
            askers.start_soon(ask, key)
        await trio.testing.wait_all_tasks_blocked()
        assert len(flights) == 2
        gates["a"].set()
        await trio.testing.wait_all_tasks_blocked()
        assert (sorted(got), len(flights)) == (["a", "a", "a"], 1)
        askers.cancel_scope.cancel()
    assert len(flights) == 0


def living_flights() -> int:
    """Return how many flights anybody still refers to."""
    gc.collect()
    return sum(isinstance(each, SingleFlight) for each in gc.get_objects())


async def test_a_checkout_that_many_made_and_hold_is_nobodys_flight(stage: Stage) -> None:
    base = await stage.repositories.resolve(stage.url, "main")
    checkouts = Checkouts(stage.home / "checkouts", stage.backend.user)
    holding = 0
    leave = trio.Event()

    async def hold() -> None:
        nonlocal holding
        async with checkouts.hold(base.mirror, base.commit):
            holding += 1
            if holding == 3:
                leave.set()
            await leave.wait()

    async with trio.open_nursery() as agents:
        for _ in range(3):
            agents.start_soon(hold)
    assert living_flights() == 0
