"""A repository in trouble is left alone for a while, and the others are not."""

from __future__ import annotations

from datetime import timedelta

import trio
import trio.testing

from orchestrator.core.intensity import HOLD, MAX_FAILURES
from orchestrator.core.model import Phase, Reason
from orchestrator.journal.store import utc_now
from orchestrator.supervise import breaker as breaker_module
from orchestrator.supervise.breaker import Breaker
from orchestrator.supervise.dispatcher import run_dispatcher
from tests.core.ledger import NOON
from tests.supervise.conftest import OpenStore, submit
from tests.supervise.test_dispatcher import Starts

#: The repository of the tasks of this room's tests, and another.
URL, OTHER = "https://example.com/r.git", "https://example.com/other.git"


def fail(breaker: Breaker, repository: str, *reasons: Reason) -> list[str | None]:
    """Let agents fail, all at noon."""
    return [breaker.failed(repository, reason, NOON) for reason in reasons]


def test_one_reason_of_the_host_or_the_remote_many_times_holds_and_is_told_once() -> None:
    breaker = Breaker()
    told = fail(breaker, URL, *[Reason.REPOSITORY_ERROR] * (MAX_FAILURES + 1))
    assert told[:-2] == [None] * (MAX_FAILURES - 1)
    assert URL in str(told[-2])
    assert told[-1] is None
    assert breaker.holds(URL, NOON)
    assert not breaker.holds(OTHER, NOON)
    assert breaker.next_end(NOON) == NOON + 2 * HOLD
    assert not breaker.holds(URL, NOON + 2 * HOLD)
    assert not breaker.holds(URL, NOON - timedelta(hours=1)), "the clock was set back"


def test_the_agents_own_faults_and_a_mixture_hold_nobody() -> None:
    breaker = Breaker()
    fail(breaker, URL, *[Reason.AGENT_ERROR, Reason.GATE_REJECTED, Reason.TIMEOUT] * MAX_FAILURES)
    fail(breaker, URL, *[Reason.SANDBOX_ERROR, Reason.PUSH_FAILED] * (MAX_FAILURES - 1))
    assert not breaker.holds(URL, NOON)


def test_a_success_ends_it() -> None:
    breaker = Breaker()
    assert not breaker.succeeded(URL)
    fail(breaker, URL, *[Reason.SANDBOX_ERROR] * MAX_FAILURES)
    assert breaker.succeeded(URL)
    assert not breaker.holds(URL, NOON)
    assert fail(breaker, URL, Reason.SANDBOX_ERROR) == [None]


def test_no_more_repositories_are_remembered_than_there_is_room_for() -> None:
    breaker = Breaker()
    fail(breaker, URL, *[Reason.SANDBOX_ERROR] * MAX_FAILURES)
    for number in range(breaker_module.MAX_REPOSITORIES):
        fail(breaker, f"{OTHER}{number}", Reason.SANDBOX_ERROR)
    assert not breaker.holds(URL, NOON), "the oldest gave way"


async def test_those_who_are_held_back_hold_up_nobody_and_go_when_it_is_over(opened: OpenStore) -> None:
    async with opened() as store, trio.open_nursery() as nursery:
        held = await submit(store, "held", priority=10)
        free = await submit(store, "free", context={"repository": OTHER})
        breaker, starts = Breaker(), Starts()
        began = utc_now() - HOLD + timedelta(seconds=0.5)
        for _ in range(MAX_FAILURES):
            breaker.failed(URL, Reason.REPOSITORY_ERROR, began)
        nursery.start_soon(lambda: run_dispatcher(store, starts, clock=utc_now, breaker=breaker))
        assert await starts.take() == free
        assert await starts.take() == held
        assert utc_now() >= began + HOLD
        nursery.cancel_scope.cancel()


async def test_a_submission_gives_no_slot_to_who_is_held_back(opened: OpenStore) -> None:
    async with opened() as store, trio.open_nursery() as nursery:
        breaker, starts = Breaker(), Starts()
        for _ in range(MAX_FAILURES):
            breaker.failed(URL, Reason.REPOSITORY_ERROR, utc_now())
        nursery.start_soon(lambda: run_dispatcher(store, starts, clock=utc_now, breaker=breaker))
        await trio.testing.wait_all_tasks_blocked()
        held = await submit(store, "held")
        assert store.state.agents[held].phase is Phase.QUEUED
        nursery.cancel_scope.cancel()
