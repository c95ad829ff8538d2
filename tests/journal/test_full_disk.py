"""A full disk: kills and ends still fit, new tasks are refused, and logs lose lines with a mark."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
import trio

from orchestrator import errors
from orchestrator.core.commands import Freeze, KillAgent, Thaw
from orchestrator.core.events import AgentAttention, AgentCleanup
from orchestrator.core.model import AgentId, Reason
from orchestrator.journal import database, place
from orchestrator.journal.fresh import new_uuid, utc_now
from orchestrator.journal.logs import LogBook
from orchestrator.journal.room import Room
from orchestrator.journal.store import Store, open_store
from orchestrator.journal.verify import verify_file
from tests.journal.rig import started, submission, work
from tests.kit.inject import small_disk, without_blocks

BALLAST = 8 * place.MIB


class SmallDisk(apsw.VFS):
    """A disk that can be filled: every write fails while more of the ballast is there than `free_at`."""

    def __init__(self, home: Path) -> None:
        self.vfs_name, self.free_at = f"small-disk-{home}", BALLAST
        self._ballast = home / "ballast"
        super().__init__(self.vfs_name, "")

    @property
    def full(self) -> bool:
        return self.free_at < (self._ballast.stat().st_size if self._ballast.exists() else 0)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return SmallFile(self, name, flags)

    def connect(self, path: Path) -> apsw.Connection:
        opened = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=self.vfs_name)
        return database.configured(opened, "FULL")


class SmallFile(apsw.VFSFile):
    def __init__(self, disk: SmallDisk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        if self._disk.full:
            raise apsw.FullError("no space left on the device")
        super().xWrite(data, offset)


@asynccontextmanager
async def store_on(disk: SmallDisk, home: Path) -> AsyncIterator[Store]:
    """Own a store on the disk, which has taken its ballast."""
    with database.open_files(home, home / "orchestrator.db", disk.connect) as files:
        room = Room(home / "orchestrator.db", files.writer, reserve_bytes=1, ballast_bytes=BALLAST)
        store = Store(replace(files, room=room), utc_now, new_uuid)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            await store.record(started())
            yield store
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("characters", [10, 5_000_000], ids=["at the commit", "in a statement"])
async def test_a_commit_on_a_full_disk_is_done_once_the_ballast_has_made_room(
    tmp_path: Path, characters: int
) -> None:
    disk = SmallDisk(tmp_path)
    async with store_on(disk, tmp_path) as store:
        ids = await work(store, "t", "a")
        disk.free_at = 0
        assert disk.full
        recorded = await store.record(AgentAttention(**ids, message="x" * characters))
        assert not (tmp_path / "ballast").exists()
        await store.submit(KillAgent(AgentId("a"), Reason.OPERATOR))
        assert await store.events_after(recorded[0].seq - 1, limit=1) == recorded
        heads = await store.head_hash()
    assert verify_file(tmp_path / "orchestrator.db") == heads


async def test_a_disk_that_stays_full_without_ballast_breaks_the_journal(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path)

    async def submit_on_full() -> None:
        async with store_on(disk, tmp_path) as store:
            disk.free_at = -1
            with pytest.raises(errors.JournalBroken):
                await store.submit(submission("t", "a"))
            disk.free_at = BALLAST  # for the closing

    with pytest.RaisesGroup(errors.JournalBroken, flatten_subgroups=True):
        await submit_on_full()
    assert not (tmp_path / "ballast").exists()
    async with open_store(tmp_path, tmp_path / "orchestrator.db") as store:
        assert store.state.seq == 1


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a file system of its own, of 96 MiB."""
    with small_disk(tmp_path / "small", "size=96m") as directory:
        yield directory


async def test_who_has_filled_the_disk_can_be_killed_while_new_tasks_are_refused(small: Path) -> None:
    async with (
        open_store(small, small / "orchestrator.db") as store,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(store.run)
        await store.record(started())
        ids = await work(store, "t", "a")
        with without_blocks(small):
            for _ in range(100):
                await store.record(AgentAttention(**ids, message="look " * 1000))
                store.logs.write_nowait("a", "stdout", "y" * 10_000)  # does not get the ballast
                await store.logs.wait_written()
            with pytest.raises(errors.DiskFull):
                await store.submit(submission("other", "b"))
            await store.submit(Freeze())
            await store.submit(KillAgent(AgentId("a"), Reason.OPERATOR))
            await store.record(AgentCleanup(**ids))
            await store.submit(Thaw())
        await store.submit(submission("other", "b"))
        heads = await store.head_hash()
        nursery.cancel_scope.cancel()
    assert verify_file(small / "orchestrator.db") == heads


async def test_a_full_disk_costs_lines_of_the_log_and_leaves_one_mark(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path)
    with database.open_files(tmp_path, tmp_path / "orchestrator.db") as files:
        writer = disk.connect(tmp_path / "logs.db")
        Room(tmp_path / "x.db", files.writer, reserve_bytes=1, ballast_bytes=BALLAST).balance(0)
        book = LogBook(writer, files.log_reader, utc_now)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(book.run)
            for free_at, word in ((BALLAST, "early"), (-1, "lost"), (BALLAST, "late")):
                disk.free_at = free_at
                for number in range(3):
                    book.write_nowait("a", "stdout", f"{word} {number}")
                    await book.wait_written()
            await book.wait_written()
            nursery.cancel_scope.cancel()
        contents = [line.content for line in await book.read("a")]
        writer.close()
    assert [line for line in contents if not line.startswith("[")] == [
        *("early 0", "early 1", "early 2"),
        *("late 0", "late 1", "late 2"),
    ]
    assert [line for line in contents if line.startswith("[")] == [
        "[3 lines were lost here: they could not be written]"
    ]
