"""A supervisor that kills its agent and dies by SIGKILL when the kill is answered, or when removal has begun.

Run by `test_kill_aftermath.py` in a process of its own. Removal is done in threads, and none is to be had
here, so the moment is always the same. Prints the agent's id.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import trio

from orchestrator.core.model import AgentId, Phase
from orchestrator.core.recovery import directory_of
from sandbox.base import User
from sandbox.bubblewrap import BubblewrapBackend
from tests.kit.plane import open_plane
from tests.kit.until import seen

LIFE_S = 60


def take_all_threads() -> None:
    """Let everyone wait who wants a worker thread."""
    limiter = trio.to_thread.current_default_thread_limiter()
    while limiter.available_tokens:
        limiter.acquire_on_behalf_of_nowait(object())


async def live(root: Path, user: User, script: str, moment: str) -> None:
    """Be a supervisor until its death."""
    home = root / "home"
    with trio.fail_after(LIFE_S):
        async with open_plane(home, user=user, roots=root, backend=BubblewrapBackend(user)) as plane:
            agent = await plane.submit(root / "repo.git", f"{script}; exec sleep 1000", "cut-off")
            await seen(lambda: plane.supervisor.live(agent), "its run")
            await seen(lambda: plane.store.state.agents[AgentId(agent)].phase is Phase.WORKING, "its work")
            run = plane.supervisor.live(agent)
            assert run is not None
            await seen(lambda: any(b"sleep" in comm(pid) for pid in run.run.tree.processes()), "its sleep")
            take_all_threads()
            assert (await plane.supervisor.kill(agent, actor="tester")).remaining == 0
            os.write(1, agent.encode())
            if moment == "removal":
                former = home / "quarantine" / directory_of(agent, "cut-off") / "former.json"
                await seen(former.exists, "removal begins")
            os.kill(os.getpid(), signal.SIGKILL)


def comm(pid: int) -> bytes:
    """Return the name of a process; nothing where it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    trio.run(live, Path(sys.argv[1]), User(int(sys.argv[2]), int(sys.argv[3]), "agent"), *sys.argv[4:])
