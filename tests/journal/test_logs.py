"""The logs: bounded for each agent, marked where they were cut, followed as they come, never in the way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing

from orchestrator.journal import logs
from orchestrator.journal.database import open_files
from orchestrator.journal.logs import LogBook, LogLine
from tests.journal.rig import running_store, work

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@contextmanager
def opened_book(home: Path, **ceilings: int) -> Iterator[LogBook]:
    """Own a book of logs whose writer the test runs itself."""
    with open_files(home, home / "orchestrator.db") as files:
        yield LogBook(files.log_writer, files.log_reader, lambda: NOW, live=["a"], **ceilings)


def contents(lines: list[LogLine]) -> list[str]:
    return [line.content for line in lines]


async def test_lines_are_read_in_order_by_agent_and_stream(tmp_path: Path) -> None:
    async with running_store(tmp_path, clock=lambda: NOW) as store:
        book = store.logs
        for number in range(5):
            await book.write("a", "stdout" if number % 2 else "stderr", f"line {number}")
            await book.write("b", "stdout", "other")
        await book.wait_for_more("a", 8)
        lines = await book.read("a")
        assert contents(lines) == [f"line {number}" for number in range(5)]
        assert contents(await book.read("a", stream="stdout")) == ["line 1", "line 3"]
        assert contents(await book.read("a", after=lines[1].id, limit=2)) == ["line 2", "line 3"]
        assert lines[0] == LogLine(lines[0].id, "a", NOW, "stderr", "line 0")


async def test_a_follower_waits_for_what_is_written_later(tmp_path: Path) -> None:
    seen = list[str]()
    async with running_store(tmp_path) as store:

        async def follow() -> None:
            after = 0
            while len(seen) < 3:
                await store.logs.wait_for_more("a", after)
                for line in await store.logs.read("a", after=after):
                    seen.append(line.content)
                    after = line.id

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            for number in range(3):
                await trio.testing.wait_all_tasks_blocked()
                store.logs.write_nowait("b", "stdout", "noise")
                store.logs.write_nowait("a", "stdout", str(number))
    assert seen == ["0", "1", "2"]


async def test_a_flood_is_cut_off_with_exactly_one_mark_also_after_a_restart(tmp_path: Path) -> None:
    with opened_book(tmp_path, max_lines=100) as book:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(book.run)
            for number in range(1000):
                await book.write("a", "stdout", f"y{number}")
            nursery.cancel_scope.cancel()
        lines = await book.read("a")
        assert contents(lines[:100]) == [f"y{number}" for number in range(100)]
        assert len(lines) == 101
        assert lines[100].stream == logs.SYSTEM
        assert lines[100].content.startswith("[truncated")
    with opened_book(tmp_path, max_lines=100) as book:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(book.run)
            await book.write("a", "stdout", "more")
            await book.write("b", "stdout", "other")
            await book.wait_for_more("b", 0)
            nursery.cancel_scope.cancel()
        assert len(await book.read("a")) == 101


async def test_a_ceiling_in_bytes_holds_too(tmp_path: Path) -> None:
    with opened_book(tmp_path, max_bytes=1000) as book:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(book.run)
            for _ in range(20):
                await book.write("a", "stdout", "ä" * 50)
            nursery.cancel_scope.cancel()
        assert len(await book.read("a")) == 11


async def test_a_writer_that_is_too_fast_waits_and_one_that_cannot_is_marked(tmp_path: Path) -> None:
    with opened_book(tmp_path) as book:
        for number in range(logs.MAX_PENDING_LINES + 7):
            book.write_nowait("a", "stdout", str(number))
        finished = trio.Event()

        async def write() -> None:
            await book.write("a", "stdout", "patient")
            finished.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            assert not finished.is_set()
            book.write_nowait("b", "stdout", "another agent is not held up")
            nursery.start_soon(book.run)
            await finished.wait()
            nursery.cancel_scope.cancel()
        lines = contents(await book.read("a", after=logs.MAX_PENDING_LINES - 1))
        assert lines[-2] == "[7 lines were dropped here: they came too fast]"
        assert lines[-1] == "patient"
        assert contents(await book.read("b")) == ["another agent is not held up"]


async def test_long_and_odd_lines_are_tamed(tmp_path: Path) -> None:
    async with running_store(tmp_path) as store:
        store.logs.write_nowait("a", "stdout", "x" * (logs.MAX_LINE + 5))
        store.logs.write_nowait("a", "stdout", "nul\0 surrogate\udc80 \x1b[31m ä")
        await store.logs.wait_for_more("a", 1)
        long, odd = contents(await store.logs.read("a"))
        assert long == "x" * logs.MAX_LINE + " [5 characters cut]"
        assert odd == "nul\ufffd surrogate? \x1b[31m ä"


async def test_logs_that_cannot_be_written_stop_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_store(tmp_path) as store:
        await work(store, "t", "a")
        vandal = apsw.Connection(str(tmp_path / "logs.db"))
        vandal.execute("DROP TABLE agent_logs")
        vandal.close()
        with caplog.at_level(logging.WARNING):
            for number in range(3):
                store.logs.write_nowait("a", "stdout", str(number))
                await store.logs.wait_written()
        await work(store, "t2", "a2")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_damaged_logs_are_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "logs.db").write_bytes(b"rubbish" * 1000)
    with caplog.at_level(logging.WARNING):
        async with running_store(tmp_path) as store:
            await store.logs.write("a", "stdout", "anew")
            await store.logs.wait_for_more("a", 0)
    assert (tmp_path / "logs.db.damaged").exists()
    assert "begin anew" in caplog.text
