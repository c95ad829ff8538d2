"""The process tree of a command of our own: nothing holds it together, so it is found again and again.

The invariant: `Tree.kill_nowait` returns only when a scan of /proc finds no member that has not been
sent SIGKILL; a killed process cannot fork, so the tree can only shrink from then on. A descendant
that lost its parents is adopted by this process (child subreaper) and known by its session or by a
marker in its environment; one that is given away by neither is beyond this, which is for programs of
the host such as git. Callers: `sandbox.process`; and `sandbox.warded` for how to end what was found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Sequence

from sandbox.procfs import Stat, carries, descendants, open_pidfd, signal_process, snapshot
from sandbox.spawn import unreaped, wait_pidfd

_PR_SET_CHILD_SUBREAPER = 36
#: Rounds of a kill before it gives up chasing: each sees all that the former left unsignalled.
_ROUNDS = 1000


def become_subreaper() -> None:
    """Let the kernel hand orphaned descendants to this process rather than to pid 1; idempotent."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:  # pragma: no cover - Linux before 3.4
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def has_adopted() -> bool:
    """Return whether this process has a child that `sandbox.spawn` did not start: perhaps an orphan."""
    try:
        for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - names
            with open(f"/proc/self/task/{thread}/children", "rb") as children:  # noqa: PTH123 - it is quicker
                if set(map(int, children.read().split())) - unreaped:
                    return True
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN, or a thread that just ended
        return True
    return False


def end_nowait(living: Sequence[Stat], look: Callable[[], Sequence[Stat]]) -> None:
    """Send SIGKILL to all that live, and to all that `look` finds alive then, until it finds nothing new."""
    sent: set[tuple[int, int]] = set()
    for _ in range(_ROUNDS):
        fresh = [stat for stat in living if stat.name not in sent]
        if not fresh:
            return
        for stat in fresh:  # all stand still before the first dies: none can fork or be adopted unseen
            signal_process(stat, signal.SIGSTOP)
        for stat in fresh:
            signal_process(stat, signal.SIGKILL)
            sent.add(stat.name)
        living = look()


async def wait_ended(living: Sequence[Stat]) -> None:
    """Wait until all of them have ended."""
    for stat in living:
        if (pidfd := open_pidfd(stat)) is not None:
            try:
                await wait_pidfd(pidfd)
            finally:
                os.close(pidfd)


class Tree:
    """A spawned process and all that came of it."""

    def __init__(self, root: Stat, marker: bytes) -> None:
        self.root = root
        self._marker = marker
        self._sessions = {root.pid}  # it was started as a session's leader
        self._members: dict[int, Stat] = {root.pid: root}

    def living(self) -> list[Stat]:
        """Return the members alive now, and remember them and their sessions."""
        processes = snapshot()
        own = os.getpid()
        known = [m.pid for m in self._members.values() if _is(processes.get(m.pid), m)]
        found = {pid: processes[pid] for pid in known}  # parents come before their children
        found.update(descendants(processes, known))
        for stat in processes.values():
            # Only what hangs on this process: a session's number may have been given away elsewhere.
            if stat.ppid == own and stat.pid not in found and stat.pid not in unreaped and self._claims(stat):
                found[stat.pid] = stat
                found.update(descendants(processes, [stat.pid]))
        self._members.update(found)
        self._sessions.update(s.session for s in found.values() if s.session in found)
        return [stat for stat in found.values() if stat.alive]

    def _claims(self, stat: Stat) -> bool:
        return stat.session in self._sessions or carries(stat.pid, self._marker)

    def kill_nowait(self, first: Callable[[], None] | None = None) -> int:
        """Send SIGKILL until nothing alive has not got it; return how many were alive at first.

        `first` is called once these are counted: a quicker way to kill most of them.
        """
        living = self.living()
        if first is not None:
            first()
        end_nowait(living, self.living)
        return len(living)

    def pidfds(self) -> list[int]:
        """Return pidfds of the members that are still there, for the caller to wait on and close."""
        fds = (open_pidfd(stat) for stat in self.living())
        return [fd for fd in fds if fd is not None]

    def reap_nowait(self) -> None:
        """Collect the members that this process adopted, and nobody else's children."""
        for pid in self._members.keys() - {self.root.pid} - unreaped:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


def _is(now: Stat | None, then: Stat) -> bool:
    return now is not None and now.start == then.start
