"""Ends what a killed supervisor's git left running: the far end of a fetch or push to a remote on this host.

Git itself dies with us; `git receive-pack` of a `file://` remote, which it started, does not, and could still
move a branch after recovery asked about it. Called by `Repositories.sweep`, before anything is asked.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import trio

from orchestrator.repo.git import OWNER
from sandbox.procfs import Stat, carries, open_pidfd, signal_process, snapshot
from sandbox.spawn import wait_pidfd

#: How long git, which is asked to end so that it takes its locks with it, may take; it needs milliseconds.
TERM_S = 0.5
#: How long the kernel may take over the rest.
KILL_S = 1.0


async def end_strays(root: Path) -> int:
    """End every process that was started for a repository of ours below `root`; return how many.

    Git is asked first; what it started, a hook that may ignore that, is not.
    """
    mark = f"{OWNER}={root}/".encode()
    ended: set[tuple[int, int]] = set()
    rounds: tuple[tuple[float, Callable[[int], bool]], ...] = (
        (TERM_S, _is_git),
        (KILL_S, lambda _pid: False),
    )
    for patience_s, is_asked in rounds:
        with trio.move_on_after(patience_s):
            # Looked for anew each time: what is asked to end may start another first.
            while strays := [stat for stat in snapshot().values() if stat.alive and carries(stat.pid, mark)]:
                ended.update((stat.pid, stat.start) for stat in strays)
                for stat in strays:
                    signal_process(stat, signal.SIGTERM if is_asked(stat.pid) else signal.SIGKILL)
                for stat in strays:
                    await _wait_gone(stat)
                await trio.lowlevel.checkpoint()
    return len(ended)


def _is_git(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_bytes().startswith(b"git")
    except OSError:
        return False


async def _wait_gone(stat: Stat) -> None:
    pidfd = open_pidfd(stat)
    if pidfd is None:
        return
    try:
        await wait_pidfd(pidfd)
    finally:
        os.close(pidfd)
