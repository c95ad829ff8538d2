"""A supervisor that dies at a commit of its journal: for each line, `NUMBER SIDE`, one that is forked here.

Run by `test_f01_crash_at_every_step.py` in a process of its own, so that a start costs no imports. Each
supervisor first finishes what the one before it left, then takes a task that is rejected once and lands, and
is to die at the given commit of that task. `NUMBER recovery` dies at that commit since the start instead.
Prints what its client was told (`told spawn TASK AGENT`), and for each line how it ended, how many commits it
made, and how many processes of its agents were left.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import trio

from orchestrator.journal import database
from sandbox.base import User
from sandbox.bubblewrap import BubblewrapBackend
from tests.faults.deadly import DeadlyDisk
from tests.kit.evidence import look_at_host
from tests.kit.plane import SECOND_THOUGHTS, open_plane
from tests.kit.until import until

LIFE_S = 60
GONE_S = 10.0


def say(line: str) -> None:
    """Write a line at once: the next moment may be the last."""
    os.write(1, f"{line}\n".encode())


async def live(root: Path, user: User, task: str, number: int, side: str) -> None:
    """Be a supervisor from its start to the end of its task."""
    disk = DeadlyDisk()
    if side == "recovery":
        disk.arm(number, "after")
    with trio.fail_after(LIFE_S):
        async with open_plane(
            root / "home", user=user, roots=root, backend=BubblewrapBackend(user), connect=disk.connect
        ) as plane:
            for agent in list(plane.store.state.agents):
                await plane.over(agent)
            if side != "recovery":
                disk.arm(number, side)
            agent_id = await plane.submit(root / "repo.git", SECOND_THOUGHTS, task, gated=True)
            say(f"told spawn {task} {agent_id}")
            await plane.over(agent_id)
            say(f"commits {disk.commits}")


def left(home: Path) -> int:
    """Return how many agents of ours have processes once the patience is over, or none has any."""
    connection = database.connect_reader(home / "orchestrator.db")
    ours = {row[0] for row in connection.execute("SELECT id FROM agents")}
    connection.close()
    with suppress(AssertionError):
        until(lambda: not ours & look_at_host(home).processes.keys(), "all are gone", GONE_S)
    return len(ours & look_at_host(home).processes.keys())


def main() -> None:
    """See the module."""
    root, user = Path(sys.argv[1]), User(int(sys.argv[2]), int(sys.argv[3]), "agent")
    for count, line in enumerate(sys.stdin):
        number, side = line.split()
        pid = os.fork()
        if pid == 0:
            trio.run(live, root, user, f"t{count}-{side}-{number}", int(number), side)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        say(f"end {number} {side} {os.waitstatus_to_exitcode(status)} {left(root / 'home')}")


if __name__ == "__main__":
    main()
