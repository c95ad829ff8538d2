"""What /proc says about processes: who lives, who descends from whom, and when each one started.

Keeps one invariant: a process is named by (pid, start time), never by its pid alone, so that a
number which the kernel has given to somebody else is never signalled. Callers: the backends and
what they share, and `orchestrator.supervise`, which kills many trees at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

#: More than any line of /proc/PID/stat.
_STAT_BYTES = 1024
#: Which of the fields after the name says when the process started: the last that is of use here.
_START = 19
#: How much is read at once of what the kernel lists.
_CHILDREN_BYTES = 65536
#: Whether the kernel lists a process's children, so that a tree can be read without all the others.
_TELLS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # noqa: PTH110 - a name


@dataclass(frozen=True, slots=True)
class Stat:
    """One process as /proc/PID/stat shows it."""

    pid: int
    state: str
    ppid: int
    session: int
    #: Clock ticks since boot; with the pid it names the process for ever.
    start: int
    threads: int

    @property
    def alive(self) -> bool:
        """Whether it still runs, sleeps or is stopped, rather than waiting to be reaped.

        A program whose first thread has ended looks like a zombie, though its other threads go on.
        """
        return self.state not in "ZXx" or self.threads > 1

    @property
    def name(self) -> tuple[int, int]:
        """What no other process ever has: pid and start."""
        return self.pid, self.start


#: What is done about each process in the moment it is read.
Meet = Callable[[Stat], None]


def read_stat(pid: int, path: str | None = None) -> Stat | None:
    """Return what the kernel says about `pid`, or None where there is no such process.

    `path` is where it says so, for a thread.
    """
    try:
        fd = os.open(path or f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        line = os.read(fd, _STAT_BYTES)
    except OSError:
        return None
    finally:
        os.close(fd)
    # The command's name stands in parentheses and may hold anything, parentheses and newlines too.
    fields = line[line.rfind(b")") + 2 :].split(None, _START + 1)
    return Stat(pid, fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[_START]), int(fields[17]))


def thread_states(stat: Stat) -> set[str]:
    """Return the states that the threads of a process are in; of one that is gone, none."""
    if stat.threads == 1:
        return {stat.state}
    states = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{stat.pid}/task"):  # noqa: PTH208 - names
            if (thread := read_stat(int(name), f"/proc/{stat.pid}/task/{name}/stat")) is not None:
                states.add(thread.state)
    return states


def snapshot() -> dict[int, Stat]:
    """Return every process that /proc shows; not atomic, so callers look again until nothing is new."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - a Path for each entry doubles the time of the scan
        if name.isdigit() and (stat := read_stat(int(name))) is not None:
            found[stat.pid] = stat
    return found


def descendants(processes: Mapping[int, Stat], roots: Iterable[int]) -> dict[int, Stat]:
    """Return the processes below `roots` (without them), however deep."""
    return _reach(_by_parent(processes), roots)


def _by_parent(processes: Mapping[int, Stat]) -> dict[int, list[Stat]]:
    children: defaultdict[int, list[Stat]] = defaultdict(list)
    for stat in processes.values():
        children[stat.ppid].append(stat)
    return dict(children)


def _reach(by_parent: Mapping[int, list[Stat]], roots: Iterable[int]) -> dict[int, Stat]:
    found: dict[int, Stat] = {}
    waiting = list(roots)
    while waiting:
        for stat in by_parent.get(waiting.pop(), ()):
            if stat.pid not in found:
                found[stat.pid] = stat
                waiting.append(stat.pid)
    return found


#: Within `one_look`: what every `below` is answered from.
_looks: list[dict[int, list[Stat]] | None] = []


@contextmanager
def one_look() -> Iterator[None]:
    """Answer every `below` in the block from one snapshot, taken at the first: for many trees at one moment.

    The block must have no checkpoint, lest somebody else is answered from what is long over.
    """
    _looks.append(None)
    try:
        yield
    finally:
        _looks.pop()


def below(root: int, *, anew: bool = False, meet: Meet | None = None) -> dict[int, Stat]:
    """Return the processes below `root` (without it), however deep, reading of /proc no others than these.

    As little atomic as `snapshot`: what was forked or adopted meanwhile may be missing. `anew` looks
    anew even within `one_look`. `meet` is called with each as it is read, before its children are.
    """
    if _looks and not anew:
        look = _looks[-1] = _looks[-1] or _by_parent(snapshot())
        return _reach(look, [root])
    if not _TELLS_CHILDREN:  # pragma: no cover - a kernel without CONFIG_PROC_CHILDREN
        everyone = descendants(snapshot(), [root])
        for each in everyone.values():
            if meet:
                meet(each)
        return everyone
    found: dict[int, Stat] = {}
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        for pid in _children_of(found[parent]) if parent in found else children(parent):
            if pid not in found and (stat := read_stat(pid)) is not None:
                found[pid] = stat
                if meet:
                    meet(stat)
                waiting.append(pid)
    return found


def children(pid: int) -> list[int]:
    """Return the children of all threads of a process; none where it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has just ended
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names
            found += _children_of_thread(pid, thread)
    return found


def _children_of(stat: Stat) -> list[int]:
    """Return the same, without a look for threads where it had but one: a kill reads all of a tree."""
    return children(stat.pid) if stat.threads > 1 else _children_of_thread(stat.pid, str(stat.pid))


def _children_of_thread(pid: int, thread: str) -> list[int]:
    try:
        fd = os.open(f"/proc/{pid}/task/{thread}/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    told = b""
    try:
        while part := os.read(fd, _CHILDREN_BYTES):
            told += part
    except OSError:  # it has just ended
        return []
    finally:
        os.close(fd)
    return [int(number) for number in told.split()]


def same(stat: Stat) -> bool:
    """Return whether the very process of `stat` is still alive."""
    now = read_stat(stat.pid)
    return now is not None and now.start == stat.start and now.alive


def open_pidfd(stat: Stat) -> int | None:
    """Return a pidfd for the very process of `stat`, or None where it is gone."""
    try:
        fd = os.pidfd_open(stat.pid)
    except OSError:
        return None
    # Opened first and compared after: from here on the descriptor cannot come to mean another process.
    now = read_stat(stat.pid)
    if now is None or now.start != stat.start:
        os.close(fd)
        return None
    return fd


def signal_process(stat: Stat, number: signal.Signals) -> None:
    """Send a signal to the very process of `stat`, or to nobody."""
    fd = open_pidfd(stat)
    if fd is None:
        return
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(fd, number)
    os.close(fd)


def ended(pidfd: int) -> bool:
    """Return whether the process of a pidfd has ended, without waiting."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def environment(pid: int) -> bytes:
    """Return what the process was started with in its environment; empty where we may not know."""
    try:
        fd = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        with os.fdopen(fd, "rb") as environ:
            return environ.read()
    except OSError:
        return b""


def carries(pid: int, marker: bytes) -> bool:
    """Return whether the process was started with `marker` in its environment."""
    return marker in environment(pid)
