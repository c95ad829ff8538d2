"""Whatever goes wrong with a scan, nothing leaves, and it is told why."""

from __future__ import annotations

import gzip
import os
import resource
import signal
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from orchestrator.errors import GitFailed
from orchestrator.secrets.scan import MAX_PROCESSES, MAX_TRIES, Bounds, Scanner, Stream
from orchestrator.secrets.worker import open_worker
from sandbox.base import SandboxLaunchFailed
from tests.kit.leaks import children
from tests.kit.processes import marked
from tests.kit.remote import git
from tests.kit.until import seen
from tests.secrets.planted import PLANTED
from tests.secrets.stand import Stand


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (Bounds(objects=20), "more than 20 objects"),
        (Bounds(bytes=1000), "more than 1000 bytes"),
        (Bounds(unpacked=100_000), "more packed content"),
    ],
)
async def test_more_than_is_looked_through_blocks(stand: Stand, bounds: Bounds, said: str) -> None:
    stand.scanner = Scanner(bounds=bounds)
    files: dict[str, str | bytes | None] = {f"d{n}/f.txt": f"{n}\n" * 20 for n in range(20)}
    report = await stand.scan(stand.commit(files | {"zeros.gz": gzip.compress(bytes(1_000_000))}))
    assert not report.clean
    assert said in report.trouble


async def test_objects_that_cannot_be_read_are_no_clean_change(stand: Stand) -> None:
    tip = stand.commit({"a.txt": "some content\n"})
    blob = git("rev-parse", f"{tip}:a.txt", cwd=stand.root).strip()
    (stand.root / ".git/objects" / blob[:2] / blob[2:]).unlink()
    for unreadable in (tip, "0" * 40):
        with pytest.raises(GitFailed):
            await stand.scan(unreadable)


@dataclass
class Silent:
    """Objects that never come, and never end."""

    fd: int

    async def finish(self) -> None:
        raise AssertionError("it never ends")


@asynccontextmanager
async def silence(*_revisions: str) -> AsyncGenerator[Silent, None]:
    """Open objects that never come."""
    reading, writing = os.pipe()
    try:
        yield Silent(reading)
    finally:
        os.close(reading)
        os.close(writing)


async def test_a_scan_that_takes_too_long_blocks_and_its_process_is_ended(stand: Stand) -> None:
    scanner = Scanner(bounds=Bounds(seconds=1))
    report = await scanner.scan(silence, base=stand.base, tip=stand.base)
    assert "did not end within 1 s" in report.trouble


async def test_who_waits_for_others_scans_has_all_of_its_own_time(stand: Stand) -> None:
    stand.scanner = Scanner(bounds=Bounds(seconds=5))
    good = stand.commit({"a.py": "a = 1\n"})
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_PROCESSES):
            nursery.start_soon(partial(stand.scanner.scan, silence, base=stand.base, tip=good))
        await wait_all_tasks_blocked(0.1)
        report = await stand.scan(good)
        assert report.clean, report.trouble
        nursery.cancel_scope.cancel()


async def test_what_was_found_is_told_also_where_the_base_takes_too_long(stand: Stand) -> None:
    bad = stand.commit({"a.py": f"a = '{PLANTED['aws']}'\n"})
    scanner = Scanner(bounds=Bounds(seconds=4))

    def slow_base(*revisions: str) -> AbstractAsyncContextManager[Stream]:
        return silence() if "--no-walk" in revisions else stand.opener(*revisions)

    report = await scanner.scan(slow_base, base=stand.base, tip=bad)
    assert [(found.path, found.line) for found in report.findings] == [("a.py", 1)]


async def test_process_that_is_ready_serves_again_and_a_cancelled_scan_costs_only_it(
    stand: Stand,
) -> None:
    bad, good = stand.commit({"a.py": f"a = '{PLANTED['aws']}'\n"}), stand.commit({"a.py": "a = 1\n"})
    stand.base = bad
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stand.scanner.run)
        stand.scanner.expect()
        await seen(lambda: stand.scanner.ready, "the process that is ready before the first scan")
        for _ in range(2):
            assert (await stand.scan(good)).clean
            assert stand.scanner.ready, "another process did that"
        with trio.move_on_after(0.2) as given_up:
            await stand.scanner.scan(silence, base=stand.base, tip=good)
        assert given_up.cancelled_caught
        await seen(lambda: not stand.scanner.ready, "its end")
        stand.scanner.expect()  # and whoever comes at once waits for that one
        stand.base = good
        assert not (await stand.scan(stand.commit({"b.py": f"b = '{PLANTED['github']}'\n"}))).clean
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("strikes", [1, MAX_TRIES])
async def test_who_ends_the_process_costs_nobody_a_scan_and_whoever_goes_on_gets_nothing_out(
    stand: Stand, strikes: int
) -> None:
    good = stand.commit({"a.py": "a = 1\n"})
    struck: list[int] = []

    @asynccontextmanager
    async def struck_down(*revisions: str) -> AsyncGenerator[Stream, None]:
        """Open the objects; those who are asked with them are ended before they have read them."""
        async with stand.opener(*revisions) as stream, trio.open_nursery() as beside:
            if len(struck) < strikes:
                beside.start_soon(strike)
            yield stream
            beside.cancel_scope.cancel()

    async def strike() -> None:
        await seen(lambda: searching() - set(struck), "the process that looks through the objects")
        for pid in searching() - set(struck):
            struck.append(pid)
            os.kill(pid, signal.SIGKILL)

    report = await stand.scanner.scan(struck_down, base=stand.base, tip=good)
    assert report.clean == (strikes < MAX_TRIES), report
    assert report.clean or "ended from outside" in report.trouble
    assert len(struck) == strikes


async def test_what_the_process_dies_of_by_itself_is_looked_at_once_and_told_as_that(stand: Stand) -> None:
    asked = list[str]()

    @asynccontextmanager
    async def cut_off(*revisions: str) -> AsyncGenerator[Stream, None]:
        """Open objects that end in the middle of one."""
        asked.extend(revisions[:1])
        with (stand.root / "cut.off").open("w+b") as file:
            file.write(b"0" * 40 + b" blob 500 x\nabc")
            file.seek(0)
            yield Silent(file.fileno())

    report = await stand.scanner.scan(cut_off, base=stand.base, tip=stand.base)
    assert "too much for the process" in report.trouble
    assert asked == [stand.base]


async def test_without_a_descriptor_left_no_process_is_started_and_it_is_told_as_that() -> None:
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(SandboxLaunchFailed, match="no socket"):
            async with open_worker():
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def searching() -> set[int]:
    """Return the processes that look for secrets for this one, and for nobody else on the host."""
    return set(marked("orchestrator.secrets.inside")) & children()
