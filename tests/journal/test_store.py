"""The store: what is acknowledged, who wins, what survives, and what happens when a commit fails."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing

from orchestrator import errors
from orchestrator.core.commands import (
    AssignAgent,
    CompleteAgent,
    FailAgent,
    KillAgent,
    PauseQueue,
    StartAgent,
)
from orchestrator.core.events import (
    AgentAttention,
    AgentCleanup,
    AgentCompleted,
    GatePassed,
    Recorded,
    TaskAssigned,
)
from orchestrator.core.model import AgentId, Reason, TaskId, Verdict
from orchestrator.journal import database
from orchestrator.journal.attempts import Attempts
from orchestrator.journal.store import AuditEntry, Receipt, Store, open_store
from orchestrator.journal.verify import verify_file
from tests.journal.rig import names, running_store, spec, started, submission, work

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Gate:
    """A connection's commits, held up until they are let through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self._reached = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def connect(self, path: Path) -> apsw.Connection:
        connection = database.connect(path)
        connection.set_commit_hook(self._commit)
        return connection

    def close(self) -> None:
        self._reached = trio.Event()
        self.open.clear()

    async def wait_reached(self) -> None:
        await self._reached.wait()

    def _commit(self) -> bool:
        if not self.open.is_set():
            self._token.run_sync_soon(self._reached.set)
            self.open.wait(30)
        return False


async def test_nothing_is_acknowledged_shown_or_published_before_its_commit(tmp_path: Path) -> None:
    gate, acknowledged = Gate(), list[Recorded]()
    async with running_store(tmp_path, connect=gate.connect) as store:

        async def submit() -> None:
            acknowledged.extend(await store.submit(submission("t", "a")))

        before = store.state
        async with trio.open_nursery() as nursery:
            gate.close()
            nursery.start_soon(submit)
            await gate.wait_reached()
            await trio.testing.wait_all_tasks_blocked()
            seen = (store.state is before, store.bus.after(before.seq), list(acknowledged))
            stored = await store.events_after(before.seq)
            gate.open.set()
        published = store.bus.after(before.seq)
    assert seen == (True, [], [])
    assert stored == []
    assert published == acknowledged
    assert names(acknowledged) == ["task.submitted", "agent.spawning", "task.queued"]


async def test_a_cancelled_caller_undoes_nothing(tmp_path: Path) -> None:
    gate = Gate()
    async with running_store(tmp_path, connect=gate.connect) as store:
        async with trio.open_nursery() as nursery:
            gate.close()
            nursery.start_soon(store.submit, submission("t", "a"))
            await gate.wait_reached()
            nursery.cancel_scope.cancel()
            gate.open.set()
        await store.wait_past(1)
        assert TaskId("t") in store.state.tasks


async def test_of_many_rivals_for_one_task_one_wins(tmp_path: Path) -> None:
    won, refused = list[list[Recorded]](), list[errors.OrchestratorError]()
    async with running_store(tmp_path) as store:

        async def submit(number: int) -> None:
            try:
                won.append(await store.submit(submission("t", f"a{number}")))
            except errors.TaskActive as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(submit, number)
        assert len(await store.agents_of("t")) == 1
    assert (len(won), len(refused)) == (1, 49)


async def test_sequence_has_no_gap_under_many_writers(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:

        async def submit(number: int) -> None:
            ids = await work(store, f"t{number}", f"a{number}")
            await store.record(AgentAttention(**ids, message="look"))

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(submit, number)
        events = await store.events_after(0, limit=1000)
        heads = await store.head_hash()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert verify_file(tmp_path / "orchestrator.db") == heads
    assert heads.seq == events[-1].seq


async def test_a_final_status_is_final_and_a_refused_fact_leaves_no_trace(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        ids = await work(store, "t", "a")
        await store.submit(CompleteAgent(AgentId("a"), Reason.DONE))
        heads, state = await store.head_hash(), store.state
        with pytest.raises(errors.IllegalTransition):
            await store.record(AgentCleanup(**ids), AgentCompleted(**ids, reason=Reason.DONE))
        with pytest.raises(errors.AlreadyEnded):
            await store.submit(KillAgent(AgentId("a"), Reason.OPERATOR))
        assert (await store.head_hash(), store.state) == (heads, state)
        await store.record(AgentCleanup(**ids))
    assert verify_file(tmp_path / "orchestrator.db").seq == heads.seq + 1


async def test_order_is_by_sequence_when_the_clock_is_set_back(tmp_path: Path) -> None:
    times = iter(NOW - timedelta(hours=number) for number in range(1000))
    async with running_store(tmp_path, clock=lambda: next(times)) as store:
        for number in range(3):
            await store.submit(submission(f"t{number}", f"a{number}"))
        events = await store.events_after(0)
        listed, _ = await store.list_agents()
        assert store.queue_position("a0") == 1
    assert [event.time for event in events] != sorted(event.time for event in events)
    assert [agent.id for agent in listed] == ["a2", "a1", "a0"]


def receipt_for(key: str) -> Receipt:
    return Receipt(key, "fingerprint", 201, '{"agentId":"a"}', NOW)


async def test_one_key_is_one_task(tmp_path: Path) -> None:
    outcomes = list[str]()
    async with running_store(tmp_path) as store:

        async def submit(number: int) -> None:
            try:
                await store.submit(submission(f"t{number}", f"a{number}"), receipt=receipt_for("token:k"))
                outcomes.append("task")
            except errors.KeyInUse:
                outcomes.append("refused")

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(submit, number)
        assert sorted(outcomes) == ["refused"] * 9 + ["task"]
        assert len(store.state.tasks) == 1
    async with running_store(tmp_path) as store:
        assert await store.receipt("token:k") == receipt_for("token:k")
        assert await store.receipt("token:other") is None


async def test_a_receipt_may_be_made_from_the_events(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        await store.submit(
            submission("t", "a"),
            receipt=lambda recorded: Receipt("k", "f", 201, str(recorded[-1].seq), NOW),
        )
        found = await store.receipt("k")
        assert found is not None
        assert found.body == str(store.state.seq)


async def test_a_refused_command_leaves_its_key_unused(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        await store.submit(submission("t", "a"))
        with pytest.raises(errors.TaskActive):
            await store.submit(submission("t", "b"), receipt=receipt_for("k"))
        await store.submit(submission("t2", "b"), receipt=receipt_for("k"))


async def test_old_receipts_are_forgotten(tmp_path: Path) -> None:
    async with running_store(tmp_path, clock=lambda: NOW) as store:
        await store.submit(submission("t", "a"), receipt=receipt_for("old"))
    later = NOW + timedelta(days=8)
    async with running_store(tmp_path, clock=lambda: later) as store:
        await store.submit(submission("t2", "a2"))
        assert await store.receipt("old") is None


async def test_what_ended_is_found_in_the_tables_whole(tmp_path: Path) -> None:
    verdict = Verdict(gate="tests", approved=True, message="ok", commit="c", command=("a", "b"), tests=3)
    async with running_store(tmp_path) as store:
        ids = await work(store, "t", "a")
        await store.record(GatePassed(**ids, verdict=verdict))
        await store.submit(
            FailAgent(AgentId("a"), Reason.AGENT_ERROR, "bad\0 end", False, AgentId("b"), NOW),
        )
        agent, task = store.state.agents[AgentId("a")], store.state.tasks[TaskId("t")]
        await store.record(AgentCleanup(**ids))
        assert AgentId("a") not in store.state.agents
        assert TaskId("t") not in store.state.tasks
        found = await store.find_agent("a")
        assert found is not None
        assert (found.verdicts, found.error, found.usage) == ((verdict,), "bad\0 end", agent.usage)
        assert await store.find_task("t") == task
        assert await store.find_agent("nobody") is None
        assert await store.find_task("nothing") is None


async def test_a_task_submitted_again_keeps_its_attempts(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        await store.submit(submission("t", "a"))
        await store.submit(KillAgent(AgentId("a"), Reason.OPERATOR))
        await store.submit(submission("t", "b"))  # its caller asked for the attempts before the kill
        await store.submit(KillAgent(AgentId("b"), Reason.OPERATOR))
    async with running_store(tmp_path) as store:
        earlier = await store.attempts("t")
        command = submission("t", "c")
        await store.submit(type(command)(command.spec, command.agent_id, command.runtime, earlier))
        assert [(agent.id, agent.attempt) for agent in await store.agents_of("t")] == [
            ("a", 1),
            ("b", 2),
            ("c", 3),
        ]
        assert len((await store.list_tasks())[0]) == 1


async def test_attempts_of_a_new_task_are_known_without_the_tables(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        await work(store, "old", "a")
        await store.submit(KillAgent(AgentId("a"), Reason.OPERATOR))
        await store.record(AgentCleanup(task_id="old", agent_id="a"))
        assert TaskId("old") not in store.state.tasks
        assert await store.attempts("old") == 1
    async with running_store(tmp_path) as store:
        assert await store.attempts("old") == 1
        async with trio.open_nursery() as nursery:
            asked, go = trio.Event(), threading.Event()

            def ask(_: apsw.Connection) -> None:
                trio.from_thread.run_sync(asked.set)
                go.wait(30)

            nursery.start_soon(store.read, ask)
            await asked.wait()
            assert await store.attempts("new") == 0, "while the reader is busy"
            go.set()


async def test_more_tasks_than_a_start_reads_may_all_be_old(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        for number in range(3):
            await store.submit(submission(f"t{number}", f"a{number}"))
        known = await store.read(lambda connection: Attempts(connection, most=3))
        unsure = await store.read(lambda connection: Attempts(connection, most=2))
    assert [known.may_have(task) for task in ("t0", "t1", "t2", "t3")] == [True, True, True, False]
    assert unsure.may_have("t3")


async def test_a_noted_fact_is_durable_with_what_follows_it(tmp_path: Path) -> None:
    gate = Gate()
    async with running_store(tmp_path, connect=gate.connect) as store:
        await store.submit(submission("t", "a"))
        gate.close()
        ids = {"task_id": TaskId("t"), "agent_id": AgentId("a")}
        await store.note(TaskAssigned(**ids))
        assert store.state.agents[AgentId("a")].phase == "queued", "not shown before its commit"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.submit, StartAgent(AgentId("a"), "none"))
            await gate.wait_reached()
            gate.open.set()
        found = [recorded.event.name for recorded in await store.events_after(0, agent_id="a")]
        assert found[-3:] == ["task.assigned", "agent.running", "task.executing"]


async def test_a_second_orchestrator_is_refused_by_name(tmp_path: Path) -> None:
    async with running_store(tmp_path):
        with pytest.raises(errors.JournalInUse, match=str(os.getpid())):
            async with open_store(tmp_path, tmp_path / "orchestrator.db"):
                pass
        with pytest.raises(errors.JournalInUse):  # another state directory, the same database
            async with open_store(tmp_path / "other", tmp_path / "orchestrator.db"):
                pass


async def test_no_change_is_acknowledged_after_what_it_follows_from(tmp_path: Path) -> None:
    gate, done = Gate(), list[str]()
    async with running_store(tmp_path, connect=gate.connect) as store:

        async def pause(name: str) -> None:
            await store.submit(PauseQueue())
            done.append(name)

        async with trio.open_nursery() as nursery:
            gate.close()
            nursery.start_soon(pause, "first")
            await gate.wait_reached()
            nursery.start_soon(pause, "second")  # paused already, but not durably
            await trio.testing.wait_all_tasks_blocked()
            assert done == []
            gate.open.set()
    assert sorted(done) == ["first", "second"]


async def test_the_audit_trail_is_chained_and_durable(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        await store.audit(AuditEntry("token:1", "kill", "a\0\ud800", "refused"))
        await store.submit(submission("t", "a"), audit=AuditEntry("token:1", "spawn", "a", "ok", "detail"))
        heads = await store.head_hash()
    assert heads.audit_seq == 2
    assert verify_file(tmp_path / "orchestrator.db") == heads


async def test_what_waits_when_the_writer_is_cancelled_is_still_committed(tmp_path: Path) -> None:
    gate = Gate()
    async with open_store(tmp_path, tmp_path / "orchestrator.db", connect=gate.connect) as store:
        async with trio.open_nursery() as callers, trio.open_nursery() as writer:
            await writer.start(store.run)
            gate.close()
            callers.start_soon(store.record, started())
            await gate.wait_reached()
            callers.start_soon(store.submit, submission("t", "a"))
            await trio.testing.wait_all_tasks_blocked()
            writer.cancel_scope.cancel()
            gate.open.set()
        with pytest.raises(errors.JournalError):
            await store.record(started())
    assert verify_file(tmp_path / "orchestrator.db").seq == 4


async def test_counts_and_pages_tell_what_there_is(tmp_path: Path) -> None:
    async with running_store(tmp_path, max_agents=2) as store:
        for number in range(5):
            await store.submit(submission(f"t{number}", f"a{number}", priority=number + 1))
        await store.submit(AssignAgent(AgentId("a4")))
        await store.submit(KillAgent(AgentId("a0"), Reason.OPERATOR))
        counts = await store.counts()
        assert (counts.pending, counts.active, counts.cancelled, counts.delayed) == (3, 1, 1, 0)
        assert [store.queue_position(f"a{number}") for number in range(5)] == [None, 3, 2, 1, None]
        assert store.waiting.first_due(NOW) == "a3"
        first, cursor = await store.list_agents(limit=2)
        second, last = await store.list_agents(limit=3, after=cursor)
        assert [agent.id for agent in first + second] == ["a4", "a3", "a2", "a1", "a0"]
        assert last is None
        assert [agent.id for agent in (await store.list_agents(status="killed"))[0]] == ["a0"]
        assert [agent.id for agent in (await store.list_agents(task_id="t3"))[0]] == ["a3"]
        assert [task.id for task in (await store.list_tasks(status="cancelled"))[0]] == ["t0"]
        with pytest.raises(ValueError, match="cursor"):
            await store.list_agents(after="1 OR 1")


async def test_events_are_found_by_task_agent_and_type_before_and_after_they_are_indexed(
    tmp_path: Path,
) -> None:
    async with running_store(tmp_path) as store:
        ids, others = await work(store, "t", "a"), await work(store, "u", "b")
        for _ in range(3):
            await store.record(
                *[AgentAttention(**ids, message="x"), AgentAttention(**others, message="y")] * 300
            )
        everything = [
            event for page in range(2) for event in await store.events_after(page * 1000, limit=1000)
        ]
        about = [event.seq for event in everything if event.event.task_id == "t"]
        found = list[int]()
        while page := await store.events_after(found[-1] if found else 0, task_id="t", limit=100):
            found += [event.seq for event in page]
        assert found == about
        by_agent = await store.events_after(1000, agent_id="a", types=["agent.attention"], limit=1000)
        assert [event.seq for event in by_agent] == [seq for seq in about if seq > 1000]
        assert names(await store.events_after(0, types=["task.queued"])) == ["task.queued"] * 2
        assert await store.events_after(0, agent_id="nobody") == []


def test_specifications_survive_whole() -> None:
    assert spec("t", instructions="\u2028 'ä'").context.instructions == "\u2028 'ä'"


async def test_the_index_of_events_survives_odd_ids(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        await check_round_trip(store, "Ä \"'\\ \u2028 \x01 \x7f 💥")


async def check_round_trip(store: Store, text: str) -> None:
    recorded = await store.submit(submission("t.1:2-3_4", "a", instructions=text))
    assert await store.events_after(recorded[0].seq - 1) == recorded
    task = await store.stored_task("t.1:2-3_4")
    assert task is not None
    assert task.spec.context.instructions == text
