"""Ends what a killed supervisor's git left running: the far end of a fetch or push to a remote on this host.

Git itself dies with us; `git receive-pack` of a `file://` remote, which it started, does not, and could still
move a branch after recovery asked about it. Called by `Repositories.end_strays`, before anything is asked.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import trio

from orchestrator.repo.git import OWNER
from sandbox.procfs import Stat, carries, open_pidfd, same, signal_process, snapshot
from sandbox.spawn import wait_pidfd

#: Between asking a stray to end, so that it takes its locks with it, and making it.
TERM_S = 2.0
KILL_S = 5.0


async def end_strays(root: Path) -> int:
    """End every process that was started for a repository of ours below `root`; return how many."""
    mark = f"{OWNER}={root}/".encode()
    strays = [stat for stat in snapshot().values() if stat.alive and carries(stat.pid, mark)]
    for number, patience_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
        left = [stat for stat in strays if same(stat)]
        for stat in left:
            signal_process(stat, number)
        with trio.move_on_after(patience_s):
            for stat in left:
                await _wait_gone(stat)
    return len(strays)


async def _wait_gone(stat: Stat) -> None:
    pidfd = open_pidfd(stat)
    if pidfd is None:
        return
    try:
        await wait_pidfd(pidfd)
    finally:
        os.close(pidfd)
