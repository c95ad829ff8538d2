"""The switches against the journal: order, races, and what is left where the journal takes nothing."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from orchestrator.core import commands as c
from orchestrator.core.model import AgentId
from orchestrator.errors import FreezeNotLatched, JournalError
from orchestrator.journal.store import Store, utc_now
from orchestrator.supervise.dispatcher import run_dispatcher
from orchestrator.supervise.switches import Switches
from tests.supervise.conftest import OpenStore, submit


async def audit_of(store: Store) -> list[tuple[str, str, str]]:
    """Return who did what and how it came out."""
    query = "SELECT actor, action, outcome FROM audit ORDER BY seq"
    rows = await store.read(lambda db: list(db.execute(query)))
    return [(str(actor), str(action), str(outcome)) for actor, action, outcome in rows]


async def test_each_switch_is_audited_before_and_after(opened: OpenStore) -> None:
    async with opened() as store:
        switches = Switches(store, {})
        frozen = await switches.freeze(actor="ann")
        assert (frozen.frozen, frozen.draining, frozen.agents, frozen.starting) == (True, False, 0, 0)
        assert (await switches.freeze(actor="ben")).frozen
        assert not (await switches.thaw(actor="ann")).frozen
        assert (await switches.drain(actor="ann")).draining
        assert not (await switches.thaw(actor="ann")).draining
        assert await audit_of(store) == [
            (actor, f"control.{action}", outcome)
            for actor, action, done in (
                ("ann", "freeze", "frozen"),
                ("ben", "freeze", "frozen"),
                ("ann", "thaw", "thawed"),
                ("ann", "drain", "draining"),
                ("ann", "thaw", "thawed"),
            )
            for outcome in ("requested", done)
        ]


async def test_freeze_is_found_by_the_next_start(opened: OpenStore) -> None:
    async with opened() as store:
        await Switches(store, {}).freeze(actor="ann")
    async with opened() as store:
        assert Switches(store, {}).frozen
        assert store.state.control.frozen


async def test_of_many_at_once_journal_and_processes_agree_on_the_last(opened: OpenStore) -> None:
    async with opened() as store:
        switches = Switches(store, {})

        async def freeze() -> None:
            await switches.freeze(actor="x")

        async def thaw() -> None:
            await switches.thaw(actor="x")

        for _ in range(30):
            async with trio.open_nursery() as nursery:
                for turn in (freeze, thaw, thaw, freeze, thaw, freeze):
                    nursery.start_soon(turn)
            assert switches.frozen is store.state.control.frozen


async def test_where_the_journal_is_closed_everything_stands_still_and_the_error_says_so(
    opened: OpenStore,
) -> None:
    async with opened() as store:
        switches = Switches(store, {})
    with pytest.raises(FreezeNotLatched, match=r"every process was stopped .* not latched: the journal"):
        await switches.freeze(actor="ann")
    assert switches.frozen
    with pytest.raises(JournalError):
        await switches.thaw(actor="ann")
    assert switches.frozen, "a thaw that is not journaled lets nothing go on"


@pytest.mark.parametrize("command", [c.Freeze(), c.Drain()], ids=["frozen", "draining"])
async def test_nothing_is_taken_from_the_queue_until_a_thaw(opened: OpenStore, command: c.Command) -> None:
    started: list[AgentId] = []
    taken = trio.Event()

    def start(agent_id: AgentId) -> None:
        started.append(agent_id)
        taken.set()

    async with opened() as store, trio.open_nursery() as nursery:
        agent_id = await submit(store, "waits")
        await store.submit(command)
        nursery.start_soon(lambda: run_dispatcher(store, start, clock=utc_now))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert started == []
        await store.submit(c.Thaw())
        with trio.fail_after(10):
            await taken.wait()
        assert started == [agent_id]
        nursery.cancel_scope.cancel()
