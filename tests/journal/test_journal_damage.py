"""Damage: a chain that was tampered with is found out, and a failed commit ends everything without a lie."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
import trio

from orchestrator import errors
from orchestrator.core.commands import KillAgent
from orchestrator.core.events import AgentAttention, AgentPhase
from orchestrator.core.model import AgentId, Phase, Reason
from orchestrator.journal import database
from orchestrator.journal.store import AuditEntry, Store, open_store
from orchestrator.journal.verify import verify_file
from tests.journal.rig import running_store, submission, work

TAMPERING = {
    "flip": "UPDATE events SET data = replace(data, 'look', 'took') WHERE seq = 12",
    "retype": "UPDATE events SET type = 'agent.parked' WHERE seq = 12",
    "redate": "UPDATE events SET time = '2020-01-01T00:00:00.000Z' WHERE seq = 12",
    "delete": "DELETE FROM events WHERE seq = 12",
    "close the gap": "DELETE FROM events WHERE seq = 12; UPDATE events SET seq = seq - 1 WHERE seq > 12",
    "reorder": "UPDATE events SET seq = -1 WHERE seq = 12; UPDATE events SET seq = 12 WHERE seq = 13;"
    " UPDATE events SET seq = 13 WHERE seq = -1",
    "cut the middle": "DELETE FROM events WHERE seq BETWEEN 5 AND 15",
    "cut the beginning": "DELETE FROM events WHERE seq < 5",
    "cut the end": "DELETE FROM events WHERE seq > 15",
    "insert": "INSERT INTO events SELECT max(seq) + 1, id, type, time, agent_id, task_id, data, hash"
    " FROM events",
    "audit": "UPDATE audit SET outcome = 'ok' WHERE seq = 2",
    "audit cut": "DELETE FROM audit WHERE seq = 1",
}


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    """Return the directory of a journal with a little history."""
    async with running_store(tmp_path) as store:
        ids = await work(store, "t", "a")
        for _ in range(10):
            await store.record(AgentAttention(**ids, message="look"))
            await store.audit(AuditEntry("me", "look", "a", "refused"))
        await store.submit(KillAgent(AgentId("a"), Reason.OPERATOR))
    return tmp_path


@pytest.mark.parametrize("how", TAMPERING)
async def test_tampering_is_found_at_the_start_and_by_the_verification(home: Path, how: str) -> None:
    connection = apsw.Connection(str(home / "orchestrator.db"))
    connection.execute(TAMPERING[how])
    connection.close()
    with pytest.raises(errors.JournalCorrupt):
        verify_file(home / "orchestrator.db")
    with pytest.raises(errors.JournalCorrupt):
        async with open_store(home, home / "orchestrator.db"):
            pass


async def test_a_journal_that_grows_during_the_verification_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_store(tmp_path) as store:
        ids = await work(store, "t", "a")
        questions = 0

        def grow(_cursor: apsw.Cursor, sql: str, _values: apsw.Bindings | None) -> bool:
            nonlocal questions
            if sql.startswith("SELECT"):
                questions += 1
                trio.from_thread.run(store.record, AgentPhase(**ids, phase=Phase.CHECKING))
            return True

        def trace(connection: apsw.Connection) -> None:
            connection.exec_trace = grow

        monkeypatch.setattr(apsw, "connection_hooks", [trace])
        await trio.to_thread.run_sync(verify_file, tmp_path / "orchestrator.db")
        assert questions > 4


async def test_a_damaged_page_is_found_at_the_start(home: Path) -> None:
    path = home / "orchestrator.db"
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(errors.JournalCorrupt):
        async with open_store(home, path):
            pass


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "orchestrator.db").write_bytes(b"hello" * 1000)
    with pytest.raises(errors.JournalCorrupt):
        async with open_store(tmp_path, tmp_path / "orchestrator.db"):
            pass


async def test_a_journal_of_a_newer_version_is_refused(home: Path) -> None:
    connection = apsw.Connection(str(home / "orchestrator.db"))
    connection.execute("UPDATE _sqlite_migrations SET name = '9999_future.sql' WHERE name LIKE '0001%'")
    connection.close()
    with pytest.raises(errors.JournalError, match=r"9999_future\.sql"):
        async with open_store(home, home / "orchestrator.db"):
            pass


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Let no file grow beyond the size of this one, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class BadDisk(apsw.VFS):
    """A disk whose syncs fail from some moment on."""

    def __init__(self) -> None:
        self.vfs_name, self.failing = "bad-disk", False
        super().__init__(self.vfs_name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return BadFile(self, name, flags)

    def connect(self, path: Path) -> apsw.Connection:
        opened = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=self.vfs_name)
        return database.configured(opened, "FULL")


class BadFile(apsw.VFSFile):
    def __init__(self, disk: BadDisk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._disk.failing:
            raise apsw.IOError("the disk does not answer")
        super().xSync(flags)


async def break_journal(home: Path, breaking: Callable[[Store], None], **words: object) -> list[str]:
    """Let a commit fail while several callers wait; return what each was told."""
    told = list[str]()
    async with open_store(home, home / "orchestrator.db", **words) as store:  # type: ignore[arg-type]

        async def submit(number: int) -> None:
            try:
                await store.submit(submission(f"u{number}", f"b{number}", instructions="x" * 100_000))
                told.append("ok")
            except errors.JournalBroken:
                told.append("broken")

        ended = list[str]()

        async def write() -> None:
            try:
                await store.run()
            except errors.JournalBroken:
                ended.append("broken")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            breaking(store)
            for number in range(20):
                nursery.start_soon(submit, number)
        assert ended == ["broken"]
        with pytest.raises(errors.JournalBroken):
            await store.record()
        with pytest.raises(errors.JournalBroken):
            await store.wait_past(10**9)
        assert not any(task.startswith("u") for task in store.state.tasks)
    return told


async def test_a_full_disk_breaks_the_journal_and_nobody_is_lied_to(home: Path) -> None:
    before = verify_file(home / "orchestrator.db")
    with full_disk(home / "orchestrator.db"):
        told = await break_journal(home, lambda _: None)
    assert told == ["broken"] * 20
    assert verify_file(home / "orchestrator.db") == before
    async with running_store(home) as store:
        await store.submit(submission("u1", "b1"))


async def test_a_failed_sync_breaks_the_journal_whatever_became_of_the_rows(home: Path) -> None:
    disk = BadDisk()

    def breaking(_: Store) -> None:
        disk.failing = True

    assert await break_journal(home, breaking, connect=disk.connect) == ["broken"] * 20
    async with running_store(home) as store:  # unknown means either: but whole, and checked
        assert len([task for task in store.state.tasks if task.startswith("u")]) in {0, 20}
