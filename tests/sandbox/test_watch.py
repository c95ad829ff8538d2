"""What the kernel does not hold is found: memory without blaming anybody for what is shared, and files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.base import MIB, Backend, Directory, Limits, Spec
from sandbox.watch import Excess, disk_bytes, find_disk_excess, find_excess, proportional_bytes

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
WATCHED = frozenset({"memory_mb", "pids", "disk_mb"})


@pytest.mark.parametrize(("kind", "beyond"), [("shared", False), ("own", True)])
async def test_shared_memory_counts_once_and_own_memory_in_full(
    backend: Backend, workspace: Directory, kind: str, beyond: bool
) -> None:
    limits = Limits(memory_mb=160)
    async with backend.open(Spec("watch", ("python3", "-c", SHARED, kind), workspace)) as sandbox:
        heard = b""
        while heard.count(b"u") < 6:
            heard += await sandbox.stdout.receive_some()
        exact = proportional_bytes(sandbox.processes())
        assert 64 * MIB < exact < 400 * MIB
        excess = find_excess(sandbox, limits, WATCHED)
        assert (excess is not None) == beyond, excess
        if excess is not None:
            assert (excess.field, excess.ceiling) == ("memory_mb", 160)
            assert str(excess) == f"memory_mb: {excess.used} used, 160 allowed"
        assert find_excess(sandbox, limits, WATCHED - {"memory_mb"}) is None
        assert find_excess(sandbox, Limits(), WATCHED) is None
        assert find_excess(sandbox, Limits(pids=3), WATCHED) == Excess("pids", 7, 3)
        await sandbox.prove_gone(5)
        assert find_excess(sandbox, Limits(memory_mb=1, pids=1), WATCHED) is None


async def test_written_files_count_once_and_holes_not(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "big").write_bytes(os.urandom(2 * MIB))
    os.link(tmp_path / "deep" / "er" / "big", tmp_path / "twin")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "away").symlink_to("/")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "fifo")
    found = await disk_bytes(tmp_path, 1 << 40)
    assert 2 * MIB <= found < 3 * MIB
    assert await find_disk_excess(tmp_path, Limits(disk_mb=3), WATCHED) is None
    excess = await find_disk_excess(tmp_path, Limits(disk_mb=1), WATCHED)
    assert excess is not None
    assert (excess.field, excess.ceiling) == ("disk_mb", 1)
    assert await find_disk_excess(tmp_path, Limits(), WATCHED) is None
    assert await find_disk_excess(tmp_path, Limits(disk_mb=1), frozenset()) is None
    assert await disk_bytes(tmp_path / "nowhere", 1) == 0


async def test_tree_too_deep_to_be_named_is_too_much(tmp_path: Path) -> None:
    name = "d" * 200
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(30):
        os.mkdir(name, dir_fd=fd)
        deeper = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    assert await disk_bytes(tmp_path, 1 << 40) > 1 << 40
