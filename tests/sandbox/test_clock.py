"""A clock that is stopped: what it times loses nothing of its time."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from sandbox.clock import Clock, RunningClock, StoppableClock


async def pass_s(seconds: float) -> None:
    """Let time pass on the mock clock."""
    with trio.move_on_after(seconds):
        await trio.sleep_forever()


@pytest.mark.parametrize("make", [RunningClock, StoppableClock])
async def test_deadline_ends_a_block_in_time(
    make: type[RunningClock | StoppableClock], autojump_clock: trio.testing.MockClock
) -> None:
    clock: Clock = make()
    began = clock.now()
    with clock.move_on_after(7) as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert clock.now() - began == pytest.approx(7)


async def test_time_for_which_it_stood_still_does_not_count(autojump_clock: trio.testing.MockClock) -> None:
    clock, began = StoppableClock(), trio.current_time()

    async def stop_twice() -> None:
        for _ in range(2):
            await pass_s(2)
            clock.stop()
            clock.stop()
            await pass_s(1000)
            clock.go_on()
            clock.go_on()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_twice)
        with clock.move_on_after(10) as outer, clock.move_on_after(5) as inner:
            await trio.sleep_forever()
        assert trio.current_time() - began == pytest.approx(2005)
        assert clock.now() - began == pytest.approx(5)
    assert inner.cancelled_caught
    assert not outer.cancelled_caught


async def test_deadline_that_begins_while_it_stands_still_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    clock, began = StoppableClock(), trio.current_time()
    clock.stop()

    async def go_on_later() -> None:
        await pass_s(100)
        clock.go_on()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on_later)
        with clock.move_on_after(3) as scope:
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() - began == pytest.approx(103)


async def test_deadline_that_has_passed_unnoticed_waits_too(autojump_clock: trio.testing.MockClock) -> None:
    clock = StoppableClock()
    with clock.move_on_after(1) as scope:
        autojump_clock.jump(2)  # the event loop was busy
        clock.stop()
        await trio.lowlevel.checkpoint()
    assert not scope.cancel_called


async def test_block_that_was_left_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    clock = StoppableClock()
    with clock.move_on_after(1) as scope:
        await trio.lowlevel.checkpoint()
    clock.stop()
    clock.go_on()
    await pass_s(5)
    assert not scope.cancel_called
