"""Ends what a killed supervisor's git left running: the far end of a fetch or push to a remote on this host.

Git itself dies with us; `git receive-pack` of a `file://` remote, which it started, does not, and could still
move a branch after recovery asked about it. Called by `Repositories.sweep`, before anything is asked.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import trio

from orchestrator.repo.git import OWNER
from sandbox.procfs import Stat, carries, open_pidfd, signal_process, snapshot
from sandbox.spawn import wait_pidfd

#: Between asking a stray to end, so that it takes its locks with it, and making it.
TERM_S = 2.0
KILL_S = 5.0


async def end_strays(root: Path) -> int:
    """End every process that was started for a repository of ours below `root`; return how many."""
    mark = f"{OWNER}={root}/".encode()
    ended: set[tuple[int, int]] = set()
    for number, patience_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
        with trio.move_on_after(patience_s):
            # Looked for anew each time: what is asked to end may start another first.
            while strays := [stat for stat in snapshot().values() if stat.alive and carries(stat.pid, mark)]:
                ended.update((stat.pid, stat.start) for stat in strays)
                for stat in strays:
                    signal_process(stat, number)
                for stat in strays:
                    await _wait_gone(stat)
                await trio.lowlevel.checkpoint()
    return len(ended)


async def _wait_gone(stat: Stat) -> None:
    pidfd = open_pidfd(stat)
    if pidfd is None:
        return
    try:
        await wait_pidfd(pidfd)
    finally:
        os.close(pidfd)
