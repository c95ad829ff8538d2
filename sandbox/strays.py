"""Finds and ends processes that a sandbox of an earlier run of the caller left, by the label they were given.

The invariant: a process is ended only where its own environment names a label that the caller owns and
nothing of the caller's runs under now, and it is named by (pid, start time) throughout. An agent that gives
itself another's label harms only itself. Caller: `orchestrator.supervise.reaper`.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterable

import trio

from sandbox.base import LABEL_VARIABLE
from sandbox.procfs import Stat, environment, open_pidfd, same, signal_process, snapshot
from sandbox.spawn import wait_pidfd

_LABEL = f"{LABEL_VARIABLE}=".encode()


def find_labelled() -> dict[str, list[Stat]]:
    """Return the processes of this host that carry a label, by their labels, as far as we may look."""
    found: defaultdict[str, list[Stat]] = defaultdict(list)
    for stat in snapshot().values():
        if stat.alive and (label := _label(stat.pid)):
            found[label].append(stat)
    return dict(found)


def _label(pid: int) -> str:
    for entry in environment(pid).split(b"\0"):
        if entry.startswith(_LABEL):
            return entry.removeprefix(_LABEL).decode("ascii", "replace")
    return ""


async def end_processes(strays: Iterable[Stat], *, patience_s: float) -> int:
    """SIGKILL the processes and wait until they are gone; return how many were not, within the patience."""
    left = [stat for stat in strays if same(stat)]
    for stat in left:
        signal_process(stat, signal.SIGKILL)
    with trio.move_on_after(patience_s):
        for stat in left:
            await _wait_gone(stat)
    return sum(same(stat) for stat in left)


async def _wait_gone(stat: Stat) -> None:
    pidfd = open_pidfd(stat)
    if pidfd is None:
        return
    try:
        await wait_pidfd(pidfd)
    finally:
        os.close(pidfd)
