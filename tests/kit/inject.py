"""Faults from outside: system calls of a running supervisor that fail or linger (strace), and full disks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.kit.until import until


@contextmanager
def injected(pid: int, calls: str, how: str) -> Iterator[None]:
    """Let system calls of a process and all its threads end as `how` says, while the block lasts."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    # Never `trace=none`: strace then injects nothing, and says nothing.
    words = ["strace", "-f", "-e", f"trace={calls}", "-e", f"inject={calls}:{how}", "-p", str(pid)]
    with (
        tempfile.TemporaryFile("w+b") as log,
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=log) as tracer,
    ):
        try:
            until(lambda: _attached(log.fileno()), "strace is attached")
            if tracer.poll() is not None:
                pytest.skip(f"needs strace that may attach: {os.pread(log.fileno(), 300, 0)!r}")
            yield
        finally:
            tracer.send_signal(signal.SIGINT)  # it lets go, and what it held runs on


def _attached(log: int) -> bool:
    said = os.pread(log, 4096, 0)
    return b" attached" in said or b"attach: " in said


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[Path]:
    """Own a file system in memory, mounted at a directory that is made for it; `options` are of tmpfs."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    place.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"mode=0711,{options}", "none", place],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip(f"needs root who may mount: {mounted.stderr.decode(errors='replace')}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def without_blocks(directory: Path) -> Iterator[None]:
    """Leave no block of the file system free while the block lasts."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as filler:
        disk = os.statvfs(directory)
        os.posix_fallocate(filler.fileno(), 0, disk.f_bfree * disk.f_bsize)
    try:
        yield
    finally:
        path.unlink()


@contextmanager
def without_names(directory: Path) -> Iterator[None]:
    """Leave no inode of the file system free while the block lasts."""
    place = directory / "names"
    place.mkdir()
    with suppress(OSError):
        for number in range(10**6):
            (place / str(number)).touch()
    try:
        yield
    finally:
        shutil.rmtree(place)
