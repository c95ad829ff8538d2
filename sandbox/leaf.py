"""The cgroup (v2) of one sandbox, as the files that the kernel shows: enter, kill, freeze, measure, remove.

The invariant: `wait_empty` returns only by the kernel's word, and what is written to a cgroup that has gone
is no error, because what it held went before. Callers: `sandbox.cgroup`, which makes and removes it, and the
sandbox that it holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
from pathlib import Path

import trio

from sandbox.base import Exit, SandboxLaunchFailed, Usage

#: How often a freeze looks whether the kernel is done: it needs microseconds, unless a device is waited for.
_LOOKS = 2000
#: What the kernel takes back by itself before anything is ended for want of memory.
_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")


class Leaf:
    """The cgroup of one sandbox. What cannot be written, because it is gone, needs no writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._oom_kills = 0

    def add_nowait(self, pid: int) -> None:
        """Put a process in; its children are born here. Raises `SandboxLaunchFailed`."""
        try:
            write(self.path / "cgroup.procs", str(pid))
        except OSError as error:
            raise SandboxLaunchFailed(f"process {pid} cannot enter {self.path}: {error.strerror}") from error

    def kill_nowait(self) -> None:
        """SIGKILL everything in it, at once: nothing that forks meanwhile escapes."""
        with contextlib.suppress(OSError):
            write(self.path / "cgroup.kill", "1")

    def freeze_nowait(self) -> None:
        """Stop everything in it, and what is born later; return when it stands still, if it can."""
        with contextlib.suppress(OSError):
            write(self.path / "cgroup.freeze", "1")
            for _ in range(_LOOKS):
                if _flat(self.path / "cgroup.events").get("frozen", 1):
                    return
                os.sched_yield()

    def thaw_nowait(self) -> None:
        """Let it go on."""
        with contextlib.suppress(OSError):
            write(self.path / "cgroup.freeze", "0")

    def pids(self) -> list[int]:
        """Return the processes in it; one that is not of our PID namespace shows as 0."""
        with contextlib.suppress(OSError):
            return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]
        return []

    async def wait_empty(self) -> None:
        """Wait until nothing lives in it."""
        try:
            events = os.open(self.path / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        # A file of the kernel's is always readable: that it changed is a priority event, and an epoll of
        # its own turns that into something readable.
        with contextlib.closing(select.epoll()) as changed, contextlib.ExitStack() as ours:
            ours.callback(os.close, events)
            changed.register(events, select.EPOLLPRI)
            while b"populated 1" in os.pread(events, 4096, 0):
                await trio.lowlevel.wait_readable(changed.fileno())

    def usage(self, otherwise: Usage) -> Usage:
        """Return what it uses, taking from `otherwise` what the kernel does not count here."""
        memory = otherwise.memory_bytes
        with contextlib.suppress(OSError, ValueError):
            memory = held_bytes(self.path)
        micros = _flat(self.path / "cpu.stat").get("usage_usec")
        seconds = otherwise.cpu_seconds if micros is None else round(micros / 1e6, 2)
        return Usage(
            memory, seconds, otherwise.processes, self.oom_kills(), in_files_bytes=otherwise.in_files_bytes
        )

    def oom_kills(self) -> int:
        """Return how many of its processes the kernel killed for want of memory, even when it is gone."""
        self._oom_kills = max(self._oom_kills, _flat(self.path / "memory.events").get("oom_kill", 0))
        return self._oom_kills

    def explain(self, ended: Exit) -> Exit:
        """Return how a command ended that was in here, with the reason where it was want of memory."""
        return dataclasses.replace(ended, oom_killed=True) if not ended.ok and self.oom_kills() else ended

    def throttled(self) -> int:
        """Return in how many periods it got no more processor time because of its ceiling."""
        return _flat(self.path / "cpu.stat").get("nr_throttled", 0)

    def refused_forks(self) -> int:
        """Return how often it was not let start another process because of its ceiling."""
        return _flat(self.path / "pids.events").get("max", 0)

    def remove_nowait(self) -> bool:
        """Remove it with all that is below; return whether it is gone."""
        self.oom_kills()
        for below, _, _ in os.walk(self.path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(below)  # noqa: PTH106 - a string, not a Path
        return not self.path.exists()


def held_bytes(cgroup: Path) -> int:
    """Return the memory that a cgroup holds on to, which its end would give back.

    Not the files that the kernel only keeps in memory for it: it gives those up anyhow, and has them still
    when the processes are gone. Where it does not tell them apart, all counts. Raises `OSError` where it does
    not measure, `ValueError` where that cannot be read.
    """
    current = int((cgroup / "memory.current").read_text())
    counts = _flat(cgroup / "memory.stat")
    return max(0, current - sum(counts.get(name, 0) for name in _RECLAIMABLE))


def write(path: Path, value: str) -> None:
    """Write into a file of the kernel's, in one go."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _flat(path: Path) -> dict[str, int]:
    """Return a file of `name value` lines; nothing where there is no such file."""
    with contextlib.suppress(OSError, ValueError):
        return {name: int(value) for name, value in map(str.split, path.read_text().splitlines())}
    return {}
