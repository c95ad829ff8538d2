"""The room on the disk: new work needs it, and no number of switches takes what is kept of it for ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from orchestrator import errors
from orchestrator.core.commands import (
    CancelTask,
    Drain,
    Freeze,
    KillAgent,
    PauseQueue,
    ResumeQueue,
    TellAgent,
    Thaw,
)
from orchestrator.core.model import AgentId, Reason, TaskId
from orchestrator.journal import room
from orchestrator.journal.database import Files, open_files
from orchestrator.journal.fresh import new_uuid, utc_now
from orchestrator.journal.place import MIB
from orchestrator.journal.room import Room
from orchestrator.journal.store import AuditEntry, Store
from orchestrator.journal.verify import verify_file
from orchestrator.supervise.kill_switch import MAX_CANCELLING
from tests.journal.rig import running_store, started, submission, work
from tests.kit.inject import small_disk


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a file system of its own, large enough for the ballast above the watermark."""
    with small_disk(tmp_path / "small", "size=160m") as directory:
        yield directory


class Filler:
    """Somebody who takes every block that he can get."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "filler"

    def fill(self) -> None:
        with self._path.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def leave(self) -> None:
        self._path.unlink()


@contextmanager
def opened(directory: Path, **words: int) -> Iterator[tuple[Files, Room]]:
    """Own the files of a journal, with room by other measures."""
    with open_files(directory, directory / "x.db") as files:
        yield files, Room(directory / "x.db", files.writer, **words)


async def test_new_tasks_are_refused_while_the_disk_is_short_and_kills_are_not(tmp_path: Path) -> None:
    with opened(tmp_path) as (files, usual):
        short = Room(tmp_path / "x.db", files.writer, reserve_bytes=usual.free_bytes() * 4)
        store = Store(replace(files, room=short), utc_now, new_uuid)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            assert store.room.short
            with pytest.raises(errors.DiskFull):
                await store.submit(submission("t", "a"))
            await store.submit(PauseQueue())
            nursery.cancel_scope.cancel()


def test_ballast_is_kept_while_the_disk_is_short_and_goes_to_the_journal_when_it_is_full(
    tmp_path: Path,
) -> None:
    ballast, database, log = (tmp_path / name for name in ("ballast", "x.db", "x.db-wal"))
    with opened(tmp_path, reserve_bytes=4096, ballast_bytes=8 * MIB) as (files, usual):
        assert not list(usual.remedies())
        usual.balance(0)
        assert ballast.stat().st_blocks * 512 >= 8 * MIB
        short = Room(database, files.writer, reserve_bytes=usual.free_bytes() * 4, ballast_bytes=8 * MIB)
        short.balance(0)
        assert ballast.stat().st_size == 8 * MIB
        sizes = database.stat().st_size, log.stat().st_size
        next(short.remedies())
        short.balance(0)
        assert not ballast.exists()
        grown = [path.stat().st_size - size for path, size in zip((database, log), sizes, strict=True)]
        assert all(part >= MIB for part in grown)
        assert sum(grown) <= 8 * MIB
        files.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert database.stat().st_size == sizes[0] + grown[0], "a checkpoint cut off what was reserved"
        assert not list(short.remedies())
        usual.balance(0)  # there is room again
        assert ballast.stat().st_size == 8 * MIB
        assert not usual.spent


def test_ballast_grows_with_what_lives_and_shrinks_again(tmp_path: Path) -> None:
    ballast = tmp_path / "ballast"
    with opened(tmp_path, reserve_bytes=4096, ballast_bytes=MIB) as (_, usual):
        usual.balance(2000)
        assert ballast.stat().st_size >= MIB + 2000 * room.END_BYTES
        usual.balance(0)
        assert ballast.stat().st_size == MIB


def entry(action: str, detail: str = "it waited in the queue") -> AuditEntry:
    return AuditEntry("admin", action, "*", "requested", detail)


async def cancel(store: Store, task_id: str, limiter: trio.CapacityLimiter) -> None:
    async with limiter:
        await store.submit(CancelTask(TaskId(task_id), Reason.KILLSWITCH), audit=entry("agent.kill"))


async def test_thousands_of_waiting_tasks_are_cancelled_on_a_full_disk(small: Path) -> None:
    filler, count, limiter = Filler(small), 3000, trio.CapacityLimiter(MAX_CANCELLING)
    async with running_store(small) as store:
        await store.record(started(5).model_copy(update={"max_queued": count}))
        async with trio.open_nursery() as nursery:
            for number in range(count):
                words = submission(f"t{number}", f"a{number}", instructions="do it " * 200)
                nursery.start_soon(store.submit, words)
        filler.fill()
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(cancel, store, f"t{number}", limiter)
        assert not store.state.tasks
        filler.fill()
        await store.submit(Freeze(), audit=entry("control.freeze"))
        heads = await store.head_hash()
    filler.fill()
    assert verify_file(small / "orchestrator.db") == heads


async def test_no_number_of_switches_on_a_full_disk_takes_what_is_kept_for_ends(
    small: Path,
) -> None:
    filler = Filler(small)
    async with running_store(small) as store:
        ids = await work(store, "t", "a")
        await store.submit(submission("waits", "b"))
        filler.fill()
        for _ in range(20_000):
            await store.submit(Freeze(), audit=entry("control.freeze", "x" * 2000))
            try:
                await store.submit(Thaw(), audit=entry("control.thaw", "x" * 2000))
            except errors.RoomKept:
                break
        else:
            pytest.fail("nothing was refused")
        filler.fill()
        heads = await store.head_hash()
        for _ in range(3):
            await store.submit(Freeze(), audit=entry("control.freeze"))
            await store.audit(entry("agents.kill_all"), changed=False)
        assert await store.head_hash() == heads, "what changed nothing was written"
        for more in (TellAgent(AgentId("a"), "go on", "admin"), Thaw()):
            with pytest.raises(errors.RoomKept):
                await store.submit(more)
        await store.submit(Drain(), audit=entry("control.drain"))
        await store.submit(PauseQueue(), audit=entry("queue.pause"))
        with pytest.raises(errors.RoomKept):
            await store.submit(ResumeQueue())
    filler.fill()
    async with running_store(small) as store:  # on the full disk, where it stood
        filler.fill()
        assert store.state.control.frozen
        await cancel(store, "waits", trio.CapacityLimiter(1))
        await store.submit(KillAgent(ids["agent_id"], Reason.OPERATOR), audit=entry("agent.kill"))
        assert not store.state.active
        waiting = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_room, store, waiting)
            await trio.testing.wait_all_tasks_blocked()
            assert not waiting.is_set()
            filler.leave()
            await waiting.wait()
        for _ in ("what is frozen", "the drain"):
            await store.submit(Thaw(), audit=entry("control.thaw"))
        await store.submit(submission("new", "c"))
        assert (small / "ballast").exists()


async def until_room(store: Store, over: trio.Event) -> None:
    await store.room_to_spare()
    over.set()


@pytest.mark.parametrize("spent", [False, True], ids=["with its ballast", "after it was spent"])
async def test_a_start_on_a_full_disk_finds_the_room_that_was_kept(small: Path, spent: bool) -> None:
    filler = Filler(small)
    async with running_store(small) as store:
        await work(store, "t", "a")
        if spent:
            filler.fill()
            await store.submit(PauseQueue())
            while (small / "ballast").exists():
                await store.audit(entry("again", "x" * 2000))
    filler.fill()
    for _ in range(3):
        async with running_store(small, max_agents=7) as store:
            filler.fill()
            await store.record(started(7))
            assert not store.room.scarce
        filler.fill()
    async with running_store(small, max_agents=7) as store:
        await store.submit(KillAgent(AgentId("a"), Reason.OPERATOR))
