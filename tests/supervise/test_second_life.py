"""An agent that a stop cut is ended meanwhile, or in its second life: nothing is lost, nothing goes on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import trio

from orchestrator.core.model import AgentStatus
from orchestrator.core.recovery import directory_of
from orchestrator.journal.store import utc_now
from sandbox.base import User
from tests.kit.plane import Plane, open_plane
from tests.kit.remote import make_remote
from tests.kit.until import seen

#: Writes something, says so, and never ends.
ENDLESS = "echo 7 > value; exec sleep 1000"


async def written(plane: Plane, home: Path, remote: Path, task: str) -> str:
    """Start an agent and return it once it has written what has not landed."""
    agent = await plane.submit(remote, ENDLESS, task)
    files = home / "workspaces" / directory_of(agent, task)
    await seen(lambda: any(path.read_text() == "7\n" for path in files.glob("*/value")), "the work")
    return agent


async def test_a_kill_before_the_kept_worktree_is_opened_keeps_the_work(
    reachable_path: Path, ordinary_user: User
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    with trio.fail_after(60):
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            agent = await written(plane, home, remote, "cut")
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            plane.supervisor.switches.freeze_nowait()  # so that it begins, and comes to nothing
            await seen(lambda: plane.supervisor.live(agent), "its second life")
            assert directory_of(agent, "cut") in plane.repositories.directories()
            assert (await plane.supervisor.kill(agent, actor="tester")).remaining == 0
            assert (await plane.over(agent)).status is AgentStatus.KILLED
            [cleanup] = await plane.store.events_after(0, types=["agent.cleanup"])
            assert cleanup.event.salvage == f"refs/salvage/{agent}"  # type: ignore[attr-defined]
            assert plane.repositories.directories() == []


async def test_a_kill_while_a_stop_cuts_the_agent_leaves_nothing_that_goes_on(
    reachable_path: Path, ordinary_user: User
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    with trio.fail_after(60):
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            agent = await written(plane, home, remote, "both")
            plane.supervisor.stop()
            assert (await plane.supervisor.kill(agent, actor="tester")).remaining == 0
            known = await plane.store.find_agent(agent)
            assert known is not None
            assert known.status is AgentStatus.KILLED


async def test_a_kill_of_who_is_assigned_in_the_moment_of_a_stop_is_answered_while_others_run_on(
    reachable_path: Path, ordinary_user: User
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    strikes: list[Callable[[], None]] = []

    def clock() -> datetime:  # asked in the midst of a decision, which a stop may meet
        while strikes:
            strikes.pop()()
        return utc_now()

    with trio.fail_after(30):
        async with open_plane(home, user=ordinary_user, roots=reachable_path, clock=clock) as plane:
            runs = await written(plane, home, remote, "runs")
            strikes.append(plane.supervisor.leave)
            agent = await plane.submit(remote, ENDLESS, "assigned")
            assert await plane.store.events_after(0, types=["task.assigned"], agent_id=agent)
            assert (await plane.supervisor.kill(agent, actor="tester")).remaining == 0
            known = await plane.store.find_agent(agent)
            assert known is not None
            assert known.status is AgentStatus.KILLED
            assert runs in plane.supervisor.running()
