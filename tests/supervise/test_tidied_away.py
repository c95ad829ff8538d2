"""What somebody removes of the state directory while it is in use is made anew, where nothing is lost."""

from __future__ import annotations

from pathlib import Path

import trio

from orchestrator.core.model import AgentStatus
from sandbox.base import User
from tests.kit.plane import open_plane
from tests.kit.remote import make_remote


async def test_agents_work_after_the_scratch_directory_was_removed(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote, home = make_remote(reachable_path), reachable_path / "home"
    with trio.fail_after(60):
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            (home / "scratch").rmdir()
            agent = await plane.over(await plane.submit(remote, "echo 1 > a", "t"))
    assert agent.status is AgentStatus.COMPLETED, agent.error
