"""The dispatcher assigns by priority and age, within the ceilings, and never misses a wake-up."""

from __future__ import annotations

from datetime import timedelta

import trio
import trio.testing

from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.model import AgentId, Phase, Reason, TaskId
from orchestrator.journal.store import Store, utc_now
from orchestrator.supervise.dispatcher import run_dispatcher
from tests.supervise.conftest import OpenStore, submit


class Starts:
    """Remembers what the dispatcher started, and lets a test wait for it."""

    def __init__(self) -> None:
        self.agents: list[AgentId] = []
        self._send, self._receive = trio.open_memory_channel[AgentId](1000)

    def __call__(self, agent_id: AgentId) -> None:
        self.agents.append(agent_id)
        self._send.send_nowait(agent_id)

    async def take(self) -> AgentId:
        """Wait for the next start."""
        with trio.fail_after(10):
            return await self._receive.receive()


async def end(store: Store, agent_id: AgentId) -> None:
    """Let an agent run and end well."""
    await store.submit(c.StartAgent(agent_id, "bubblewrap"))
    await store.submit(c.CompleteAgent(agent_id, Reason.NO_CHANGES))


async def test_higher_priority_goes_first_and_then_the_older(opened: OpenStore) -> None:
    async with opened(slots=1) as store, trio.open_nursery() as nursery:
        low = await submit(store, "low", priority=1)
        first = await submit(store, "first", priority=5)
        second = await submit(store, "second", priority=5)
        high = await submit(store, "high", priority=10)
        starts = Starts()
        nursery.start_soon(lambda: run_dispatcher(store, starts, clock=utc_now))
        for expected in (high, first, second, low):
            assert await starts.take() == expected
            assert store.state.active == 1
            await end(store, expected)
        nursery.cancel_scope.cancel()


async def test_ceiling_holds_and_a_freed_slot_is_taken_at_once(opened: OpenStore) -> None:
    async with opened(slots=3) as store, trio.open_nursery() as nursery:
        starts = Starts()
        nursery.start_soon(lambda: run_dispatcher(store, starts, clock=utc_now))
        for number in range(8):
            await submit(store, f"t{number}")
        running = [await starts.take() for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(starts.agents) == 3
        for _ in range(5):
            await end(store, running.pop(0))
            running.append(await starts.take())
            assert store.state.active <= 3
        nursery.cancel_scope.cancel()


async def test_paused_queue_starts_nothing_until_resumed(opened: OpenStore) -> None:
    async with opened() as store, trio.open_nursery() as nursery:
        starts = Starts()
        nursery.start_soon(lambda: run_dispatcher(store, starts, clock=utc_now))
        await store.submit(c.PauseQueue())
        agent = await submit(store, "waits")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert starts.agents == []
        await store.submit(c.ResumeQueue())
        assert await starts.take() == agent
        nursery.cancel_scope.cancel()


async def test_retry_starts_when_its_backoff_is_over_and_not_before(opened: OpenStore) -> None:
    async with opened() as store, trio.open_nursery() as nursery:
        starts = Starts()
        nursery.start_soon(lambda: run_dispatcher(store, starts, clock=utc_now))
        failing = await submit(store, "retries")
        assert await starts.take() == failing
        due = utc_now() + timedelta(seconds=0.3)
        await store.submit(c.FailAgent(failing, Reason.AGENT_ERROR, "x", True, AgentId("next"), due))
        assert await starts.take() == AgentId("next")
        assert utc_now() >= due
        assert store.state.agents[AgentId("next")].phase is Phase.PREPARING
        nursery.cancel_scope.cancel()


async def test_who_is_due_and_has_no_slot_is_waited_with_and_not_asked_for(opened: OpenStore) -> None:
    async with opened(slots=1) as store, trio.open_nursery() as nursery:
        first = await submit(store, "fails")
        await store.submit(c.AssignAgent(first))
        again = AgentId("again")
        await store.submit(c.FailAgent(first, Reason.AGENT_ERROR, "bad luck", True, again, utc_now()))
        await store.submit(c.PauseQueue())
        starts = Starts()
        nursery.start_soon(lambda: run_dispatcher(store, starts, clock=utc_now))
        with trio.fail_after(10):
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert starts.agents == []
        await store.submit(c.ResumeQueue())
        assert await starts.take() == again
        nursery.cancel_scope.cancel()


async def test_free_slot_is_given_by_the_submission_and_started_once(opened: OpenStore) -> None:
    async with opened(slots=2) as store, trio.open_nursery() as nursery:
        starts = Starts()
        nursery.start_soon(lambda: run_dispatcher(store, starts, clock=utc_now))
        await trio.testing.wait_all_tasks_blocked()
        first = await submit(store, "first")
        assert store.state.agents[first].phase is Phase.PREPARING, "in the commit of the submission"
        second, third = await submit(store, "second"), await submit(store, "third")
        assert [await starts.take(), await starts.take()] == [first, second]
        assert store.state.agents[third].phase is Phase.QUEUED
        await end(store, first)
        assert await starts.take() == third
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert starts.agents == [first, second, third]
        nursery.cancel_scope.cancel()


async def test_submission_gives_no_slot_where_nothing_starts_it(opened: OpenStore) -> None:
    async with opened() as store, trio.open_nursery() as nursery:
        waits = await submit(store, "before")
        assert store.state.agents[waits].phase is Phase.QUEUED
        nursery.start_soon(lambda: run_dispatcher(store, Starts(), clock=utc_now))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert store.state.agents[waits].phase is Phase.PREPARING
        nursery.cancel_scope.cancel()
    assert not store.dispatched


async def test_who_is_on_its_last_chance_waits_and_holds_up_nobody(opened: OpenStore) -> None:
    async with opened(slots=3) as store, trio.open_nursery() as nursery:
        last, suspect = await submit(store, "last"), await submit(store, "suspect")
        for agent_id in (last, last, suspect):
            await store.submit(c.AssignAgent(agent_id))
            await store.submit(c.ResumeAgent(agent_id, crashed=True))
        innocent = await submit(store, "innocent")
        starts = Starts()
        nursery.start_soon(lambda: run_dispatcher(store, starts, clock=utc_now))
        assert [await starts.take(), await starts.take()] == [last, innocent]
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert starts.agents == [last, innocent]
        await end(store, last)
        assert await starts.take() == suspect
        nursery.cancel_scope.cancel()


async def test_a_chain_goes_in_its_order_and_ends_with_the_first_that_fails(opened: OpenStore) -> None:
    starts = Starts()

    async def wait_until_ended(store: Store, *tasks: str) -> list[str]:
        while True:
            seq = store.state.seq
            found = [await store.find_task(task) for task in tasks]
            if all(task is not None and task.status.ended for task in found):
                return [f"{task.status} {task.reason}" for task in found if task is not None]
            await store.wait_past(seq)

    async with opened(slots=2) as store:
        first = await submit(store, "first")
        second = await submit(store, "second", dependsOn=["first"])
        third = await submit(store, "third", dependsOn=["first", "second"], priority=10)
        await submit(store, "fourth", dependsOn=["third"])
        await submit(store, "fifth", dependsOn=["fourth"])
        assert store.waiting.first_due(utc_now()) == first
        assert store.waiting.blocked.unmet(third) == ("first", "second")
        assert store.queue_position(second) is None
        await store.submit(c.AssignAgent(first))
        await end(store, first)
        await store.record(e.AgentCleanup(task_id=TaskId("first"), agent_id=first))
        sixth = await submit(store, "sixth", dependsOn=["first"])
        assert store.waiting.blocked.unmet(sixth) == (), "what is completed was, also once it left the state"
    async with opened(slots=2) as store, trio.open_nursery() as nursery:
        assert store.waiting.blocked.unmet(third) == ("second",), "a restart changes nothing"
        nursery.start_soon(lambda: run_dispatcher(store, starts, clock=utc_now))
        assert {await starts.take(), await starts.take()} == {second, sixth}
        await end(store, second)
        assert await starts.take() == third
        await store.submit(c.FailAgent(third, Reason.CONFLICT, "x", False, AgentId("-"), utc_now()))
        with trio.fail_after(10):
            ended = await wait_until_ended(store, "fourth", "fifth")
        assert ended == ["failed dependency_failed"] * 2
        assert not store.waiting.blocked.doomed
        nursery.cancel_scope.cancel()
