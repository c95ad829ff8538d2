"""What the kernel does not hold is found: memory without blaming anybody for what is shared, and files."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.base import MIB, Backend, Directory, Limits, Spec
from sandbox.watch import Survey, latest_change, proportional_bytes
from tests.kit.sandboxes import read_until, run_in

#: The first holds 64 MiB for all its children, which only read; the others hold 24 MiB each.
SHARED = """
import os, sys
held = bytearray(os.urandom(1)) * (64 << 20)
for _ in range(6):
    if os.fork() == 0:
        if sys.argv[1] == "own":
            own = bytearray(os.urandom(1)) * (24 << 20)
        os.write(1, b"u")
        input()
input()
"""
#: Maps all that it has written to a file in memory.
MAPPED = """
import mmap
with open("/dev/shm/x", "w+b") as file:
    file.truncate(64 << 20)
    held = mmap.mmap(file.fileno(), 0)
    held.write(b"x" * (64 << 20))
    print("up", flush=True)
    input()
"""
DEEP = 64


@pytest.mark.parametrize(("kind", "beyond"), [("shared", False), ("own", True)])
async def test_shared_memory_counts_once_and_own_memory_in_full(
    backend: Backend, workspace: Directory, kind: str, beyond: bool
) -> None:
    async with backend.open(Spec("watch", ("python3", "-c", SHARED, kind), workspace)) as sandbox:
        heard = b""
        while heard.count(b"u") < 6:
            heard += await sandbox.stdout.receive_some()
        exact = proportional_bytes(sandbox.processes())
        assert 64 * MIB < exact < 400 * MIB
        assert (exact > 160 * MIB) == beyond
        assert beyond or sandbox.usage().memory_bytes > exact
        pids = sandbox.processes()
        await sandbox.prove_gone(5)
        assert proportional_bytes(pids) == 0


IN_MEMORY = "for d in /tmp $HOME /dev/shm; do head -c 20971520 /dev/zero > $d/x; done; echo up; read end"


async def test_files_in_memory_are_memory(isolated: Backend, workspace: Directory) -> None:
    async with isolated.open(Spec("watch", ("sh", "-c", IN_MEMORY), workspace)) as sandbox:
        await read_until(sandbox, b"up")
        used = sandbox.usage()
        assert 60 * MIB <= used.in_files_bytes <= 70 * MIB
        assert used.memory_bytes >= used.in_files_bytes
        assert proportional_bytes(sandbox.processes(), used.in_files_bytes) >= 60 * MIB


async def test_mapped_files_in_memory_count_once(isolated: Backend, workspace: Directory) -> None:
    async with isolated.open(Spec("watch", ("python3", "-c", MAPPED), workspace)) as sandbox:
        await read_until(sandbox, b"up")
        exact = proportional_bytes(sandbox.processes(), sandbox.usage().in_files_bytes)
        assert 64 * MIB <= exact < 120 * MIB


async def test_no_file_system_in_memory_is_larger_than_the_memory(
    isolated: Backend, workspace: Directory
) -> None:
    sizes = "for d in /tmp $HOME /dev/shm; do set -- $(stat -f -c '%b %S' $d); echo $(($1 * $2 >> 20)); done"
    limits = Limits(memory_mb=100, shm_mb=50)
    ran = await run_in(isolated, Spec("watch", ("sh", "-c", sizes), workspace, limits=limits))
    assert ran.stdout.split() == ["100", "100", "50"]


def survey(top: Path, slice_entries: int = 7) -> Survey:
    """Survey a directory to the end, in small slices."""
    found = Survey(top, max_depth=DEEP)
    while not found.done:
        found.go_on(slice_entries, 60)
    found.close()
    return found


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Leave so many descriptors that nothing can take one for each directory."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208 - numbers
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3 * DEEP, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_written_files_count_once_and_holes_and_links_not(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "big").write_bytes(os.urandom(2 * MIB))
    os.link(tmp_path / "deep" / "er" / "big", tmp_path / "twin")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "away").symlink_to("/")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "fifo")
    found = survey(tmp_path)
    assert 2 * MIB <= found.bytes < 3 * MIB
    assert (found.files, found.depth) == (8, 2)
    assert survey(tmp_path / "nowhere").files == 0
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    assert survey(tmp_path / "link").files == 0


def test_survey_goes_on_where_it_stopped(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"d{number % 10}").mkdir(exist_ok=True)
        (tmp_path / f"d{number % 10}" / f"f{number}").write_text("x")
    found = Survey(tmp_path, max_depth=DEEP)
    before = -1
    while not found.done:
        assert found.files > before
        before = found.files
        found.go_on(40, 60)
        assert found.files <= before + 40
    assert found.files == 310


def test_survey_without_time_ends_its_slice(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"f{number}").write_text("x")
    found = Survey(tmp_path, max_depth=DEEP)
    found.go_on(50, -1)
    assert found.files == 1
    found.close()


def test_tree_without_end_is_found_deep_and_costs_few_descriptors(
    tmp_path: Path, few_descriptors: None
) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(500):
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    found = survey(tmp_path)
    assert found.depth == DEEP + 1


def test_closed_directories_and_swapped_ones_break_nothing(tmp_path: Path) -> None:
    closed, open_ = tmp_path / "a-closed", tmp_path / "b"
    for directory in (closed, open_):
        directory.mkdir()
        (directory / "f").write_text("x")
    closed.chmod(0)
    try:
        found = survey(tmp_path)
        assert found.files in {3, 4}, "root sees more"
        other = Survey(tmp_path, max_depth=DEEP)
        while not other.done:  # between any two names the tree becomes another
            other.go_on(1, 60)
            if open_.is_symlink():
                open_.unlink()
                open_.mkdir()
            else:
                (open_ / "f").unlink(missing_ok=True)
                open_.rmdir()
                open_.symlink_to("/")
        assert other.files < 10
        other.close()
    finally:
        closed.chmod(0o700)


def test_the_latest_change_anywhere_below_is_seen_and_none_beyond_a_link(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (tmp_path / "link").symlink_to(outside)
    for change in ((deep / "c").touch, (deep / "d").mkdir, (deep / "c").unlink, (outside / "x").touch):
        change()
        times = [path.lstat().st_ctime_ns for path in (tmp_path, *tmp_path.rglob("*"))]
        assert latest_change([tmp_path, deep], 1000, 60) == max(times)
    assert latest_change([tmp_path / "gone"], 1000, 60) == 0
