"""What a test may leave behind: nothing. Photographs of this process's surroundings, before and after.

The test run is a child subreaper, so a process that double-forked and called `setsid` still comes home to it
when its parent dies, and is seen. It also owns one private temporary directory: every leftover in it is ours.
Called by `tests/conftest.py` around each test; a photograph costs well under a millisecond.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36

#: How long a process that was told to die, or whose supervisor was killed, may take to be gone.
SETTLE_S = 3.0

#: Descriptors on these are caches of the interpreter and of the test tools, opened once and kept.
KEPT = ("/dev/", "/proc/", "/sys/", "/usr/", "/etc/", "/memfd:")
KEPT_WITHIN = (".hypothesis", ".coverage", ".pytest_cache", "/pytest-of-")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What existed at one moment: child processes, open descriptors, mounts and temporary files of ours."""

    children: frozenset[int]
    descriptors: frozenset[tuple[str, str]]
    mounts: frozenset[str]
    files: frozenset[str]


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that no process can hide."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def photograph(temporary: Path) -> Surroundings:
    """Return what exists now."""
    return Surroundings(children(), descriptors(), mounts(temporary), leftovers(temporary))


def children() -> frozenset[int]:
    """Return the pids of our children, zombies included, whichever thread started them."""
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - a Path an entry would be slow, for each test
        with contextlib.suppress(OSError):
            found.update(map(int, Path(f"/proc/self/task/{thread}/children").read_bytes().split()))
    return frozenset(found)


def descriptors() -> frozenset[tuple[str, str]]:
    """Return our open descriptors as (number, what it is), without those that the test tools keep."""
    found = set()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - as above
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115 - as above
            if not target.startswith(KEPT) and not any(part in target for part in KEPT_WITHIN):
                found.add((number, target))
    return frozenset(found)


def mounts(temporary: Path) -> frozenset[str]:
    """Return the mount points under our temporary directory."""
    below = f"{temporary}/"
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return frozenset(point for line in lines if (point := line.split(" ", 5)[4]).startswith(below))


def leftovers(temporary: Path) -> frozenset[str]:
    """Return the entries of our temporary directory, without pytest's own."""
    return frozenset(name for name in os.listdir(temporary) if not name.startswith("pytest-of-"))  # noqa: PTH208


def describe(before: Surroundings, temporary: Path) -> list[str]:
    """Return one line for each thing that is there now and was not before; ends the processes among them."""
    after = photograph(temporary)
    found = []
    if strays := after.children - before.children:
        found += [f"process {stray}" for stray in end(strays)]
        after = photograph(temporary)
    if after.descriptors - before.descriptors:
        gc.collect()  # what nobody holds any more is no leak of ours, only late
        after = photograph(temporary)
    found += [f"descriptor {number} on {target}" for number, target in after.descriptors - before.descriptors]
    found += [f"mount on {point}" for point in after.mounts - before.mounts]
    found += [f"temporary file {temporary / name}" for name in after.files - before.files]
    return sorted(found)


def end(pids: frozenset[int]) -> list[str]:
    """Wait a moment for processes to be gone, kill those that stay, reap all, and describe the killed.

    A zombie is no finding: a `Popen` that nobody waited for says so itself, by a ResourceWarning, and an
    orphan that came to us is ours to reap.
    """
    killed = []
    deadline = time.monotonic() + SETTLE_S
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if not ended(pid, max(0.0, deadline - time.monotonic())):
                killed.append(f"{pid}: {name.strip()[:160]}")
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return killed


def ended(pid: int, timeout_s: float) -> bool:
    """Wait until a child is dead or the time is over; return whether it is dead."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(descriptor)
