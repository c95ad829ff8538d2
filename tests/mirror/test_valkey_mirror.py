"""The mirror is the journal, in Valkey: while both live, and after whatever happened to Valkey."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from orchestrator.core import events as e
from orchestrator.core.commands import AssignAgent, KillAgent
from orchestrator.core.mirror import MirrorUnavailable
from orchestrator.core.model import AgentId, Reason
from orchestrator.journal.store import Store, utc_now
from orchestrator.mirror.valkey import ValkeyMirror
from tests.journal.rig import running_store, submission, work
from tests.kit.until import seen
from tests.kit.valkey import Listener, Valkey, Wire, running_valkey

#: After its return Valkey must be equal within this time; what is asserted of a busy machine is more.
RETURN_S = 20.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as valkey:
        yield valkey


@pytest.fixture
def valkey(running: Valkey) -> Iterator[Valkey]:
    """Return a server that is empty."""
    running.client.flushall()
    yield running
    running.client.connection_pool.disconnect()


@asynccontextmanager
async def mirrored(store: Store, valkey: Valkey, *, port: int = 0) -> AsyncIterator[ValkeyMirror]:
    """Run a mirror of the store."""
    address = replace(valkey.address, port=port or valkey.port)
    mirror = ValkeyMirror(store, address, utc_now)
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            await mirror.run()

        await nursery.start(run)
        yield mirror
        nursery.cancel_scope.cancel()


async def is_whole(mirror: ValkeyMirror) -> None:
    """Wait until the mirror says that all is well, and find it so, key by key."""
    await seen(lambda: mirror.condition == "ok", "the mirror is whole", RETURN_S)
    compared = await mirror.compare(False)
    assert not compared.differences


async def kill(store: Store, agent_id: str) -> None:
    """End an agent, and clean up after it."""
    [killed, *_] = await store.submit(
        KillAgent(AgentId(agent_id), Reason.OPERATOR, killed_processes=1, elapsed_ms=1.0)
    )
    await store.record(e.AgentCleanup(task_id=killed.event.task_id, agent_id=AgentId(agent_id)))


async def test_tasks_agents_and_the_queue_are_there_as_they_change(tmp_path: Path, valkey: Valkey) -> None:
    async with running_store(tmp_path) as store, mirrored(store, valkey) as mirror:
        await store.submit(submission("low", "a-low", priority=2))
        await store.submit(submission("first", "a-first", priority=9))
        await store.submit(submission("second", "a-second", priority=9))
        await seen(lambda: len(valkey.queue()) == 3, "all wait")
        assert valkey.queue() == ["first", "second", "low"]
        assert valkey.json("orchestrator:task:low")["status"] == "pending"
        await work(store, "busy", "a-busy", instructions="say goodbye")
        await seen(lambda: valkey.client.exists("orchestrator:agent:a-busy"), "it is there")
        await is_whole(mirror)
        task, agent = valkey.json("orchestrator:task:busy"), valkey.json("orchestrator:agent:a-busy")
        assert (task["status"], task["agentId"], agent["status"]) == ("executing", "a-busy", "running")
        assert task["context"]["instructions"] == "say goodbye"
        assert task["updatedAt"] == agent["startedAt"]
        assert valkey.client.ttl("orchestrator:task:busy") == -1
        await kill(store, "a-busy")
        await store.submit(AssignAgent(AgentId("a-first")))
        await seen(lambda: valkey.queue() == ["second", "low"], "one left the queue")
        await is_whole(mirror)
        agent = valkey.json("orchestrator:agent:a-busy")
        assert (agent["status"], agent["reason"]) == ("killed", "operator")
        week_s = 7 * 24 * 3600
        for key in ("orchestrator:task:busy", "orchestrator:agent:a-busy"):
            assert week_s - 60 < valkey.client.ttl(key) <= week_s


async def test_a_subscriber_sees_the_journal_in_its_order_across_restarts_of_both(
    tmp_path: Path, valkey: Valkey
) -> None:
    with closing(Listener(valkey)) as listener:
        async with running_store(tmp_path) as store:
            begin = store.state.seq
            async with mirrored(store, valkey) as mirror, trio.open_nursery() as writers:
                for number in range(5):
                    writers.start_soon(work, store, f"t{number}", f"a{number}")
                await is_whole(mirror)
            await work(store, "meanwhile", "a-meanwhile")  # nobody mirrors now
            async with mirrored(store, valkey) as mirror:
                await is_whole(mirror)
                valkey.client.client_kill_filter(_type="normal", skipme=True)
                await work(store, "cut", "a-cut")
                last = store.state.seq
                await seen(lambda: last in listener.seqs(), "all is published")
        assert [seq for seq in listener.seqs() if seq <= last] == list(range(begin + 1, last + 1))
        told = listener.messages[0]
        assert (told["type"], told["taskId"][0]) == ("task.submitted", "t")


async def test_what_was_missed_beyond_the_bound_is_told_as_a_gap(
    tmp_path: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.mirror.valkey.MOST_MISSED", 4)
    with closing(Listener(valkey)) as listener:
        async with running_store(tmp_path) as store:
            async with mirrored(store, valkey) as mirror:
                await is_whole(mirror)
            begin = store.state.seq
            for number in range(4):
                await work(store, f"t{number}", f"a{number}")
            last = store.state.seq
            async with mirrored(store, valkey) as mirror:
                await is_whole(mirror)
                await seen(lambda: last in listener.seqs(), "the last is published")
        gaps = [message["gap"] for message in listener.messages if "gap" in message]
        assert gaps == [{"from": begin + 1, "to": last - 4}]
        assert [seq for seq in listener.seqs() if seq > begin] == list(range(last - 3, last + 1))


async def test_a_reader_never_sees_less_while_all_is_made_anew(tmp_path: Path, valkey: Valkey) -> None:
    async with running_store(tmp_path) as store:
        for number in range(100):
            await store.submit(submission(f"t{number}", f"a{number}"))
        async with mirrored(store, valkey) as mirror:
            await is_whole(mirror)
        valkey.client.set("orchestrator:task:stranger", "{}")
        valkey.client.set("orchestrator:agent:\udcff stranger".encode(errors="surrogateescape"), "{}")
        valkey.client.zadd("orchestrator:queue", {"stranger": 0})
        least = before = valkey.client.dbsize()
        async with mirrored(store, valkey) as mirror:
            while mirror.condition != "ok":
                least = min(least, valkey.client.dbsize())
                assert valkey.client.zcard("orchestrator:queue") in {100, 101}
                await trio.lowlevel.checkpoint()
            await is_whole(mirror)
            assert valkey.client.zcard("orchestrator:queue") == 100
            assert not valkey.client.keys("*stranger*")
        assert least >= before - 2


async def test_it_is_whole_after_valkey_was_killed_stopped_cut_off_or_flushed(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as valkey, closing(Wire(valkey.port)) as wire:
        async with running_store(tmp_path) as store:
            async with mirrored(store, valkey, port=wire.port) as mirror, trio.open_nursery() as nursery:
                await is_whole(mirror)
                nursery.start_soon(load, store)
                for harm, undo in (
                    (valkey.kill, valkey.start),
                    (lambda: valkey.signal(signal.SIGSTOP), lambda: valkey.signal(signal.SIGCONT)),
                    (wire.cut, wire.mend),
                ):
                    harm()
                    await seen(lambda: mirror.condition.startswith("degraded"), "it is noticed", RETURN_S)
                    before = store.state.seq
                    await seen(lambda: store.state.seq > before + 50, "commits go on")  # noqa: B023 - at once
                    with pytest.raises(MirrorUnavailable):
                        await mirror.compare(False)
                    undo()
                    await is_whole(mirror)
                valkey.client.flushall()
                await seen(lambda: valkey.client.exists("orchestrator:mirror"), "it comes back", RETURN_S)
                await is_whole(mirror)
                nursery.cancel_scope.cancel()
            told = [one.event for one in await store.events_after(0, limit=1000, types={"system.degraded"})]
            assert told
            assert all(isinstance(event, e.SystemDegraded) and event.part == "valkey" for event in told)


async def load(store: Store) -> None:
    """Change the state as fast as a few clients do."""
    number = 0
    while True:
        number += 1
        await work(store, f"load-{number}", f"a-load-{number}")
        await kill(store, f"a-load-{number}")


async def test_differences_are_told_and_repaired(tmp_path: Path, valkey: Valkey) -> None:
    async with running_store(tmp_path) as store, mirrored(store, valkey) as mirror:
        await store.submit(submission("waits", "a-waits"))
        await work(store, "over", "a-over")
        await kill(store, "a-over")
        await is_whole(mirror)
        valkey.client.delete("orchestrator:agent:a-waits")
        valkey.client.rpush("orchestrator:agent:a-waits", "of another type")
        valkey.client.persist("orchestrator:task:over")
        valkey.client.set("orchestrator:task:waits", "{}" * 1000)
        valkey.client.delete("orchestrator:agent:a-over")
        valkey.client.set("orchestrator:task:unknown", "{}")
        valkey.client.delete("orchestrator:queue")
        valkey.client.set("orchestrator:queue", "of another type")
        found = await mirror.compare(False)
        assert {one.key.removeprefix("orchestrator:"): one.problem for one in found.differences} == {
            "agent:a-waits": "differs",
            "task:over": "expiry",
            "task:waits": "differs",
            "agent:a-over": "missing",
            "task:unknown": "stale",
            "queue waits": "place",
        }
        assert (found.differing, found.repaired) == (6, 0)
        mended = await mirror.compare(True)
        assert (mended.differing, mended.repaired) == (6, 6)
        await is_whole(mirror)
        assert valkey.queue() == ["waits"]


async def test_two_orchestrators_do_not_fight_over_one_valkey(tmp_path: Path, valkey: Valkey) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with running_store(tmp_path / "one") as store, running_store(tmp_path / "two") as other:
        await store.submit(submission("mine", "a-mine"))
        async with mirrored(store, valkey) as mirror:
            await is_whole(mirror)
            async with mirrored(other, valkey) as second:
                await seen(lambda: "another orchestrator" in second.condition, "it is told")
            await is_whole(mirror)
