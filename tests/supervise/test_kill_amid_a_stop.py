"""A kill that meets a stop, at any moment of it: it acts, and its answer is the truth."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from orchestrator.core.events import AgentKilled
from orchestrator.core.model import AgentId, AgentStatus
from orchestrator.core.reports import KillAllReport
from orchestrator.errors import AlreadyEnded
from sandbox.base import User
from tests.kit.plane import Plane, open_plane
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import make_remote
from tests.kit.until import seen


@asynccontextmanager
async def at_work(root: Path, user: User) -> AsyncIterator[tuple[Plane, str]]:
    """Run an agent of two processes, and two more that wait."""
    remote, mark = make_remote(root), fresh_mark("amid")
    with trio.fail_after(60):
        async with open_plane(root / "home", user=user, roots=root, slots=1) as plane:
            agent = await plane.submit(remote, "sleep 1000 & wait", "one", env={"MARK": mark})
            for task in ("two", "three"):
                await plane.submit(remote, "sleep 1000", task, env={"MARK": mark})
            await seen(lambda: len(marked(mark)) == 2, "it works")
            yield plane, agent
            assert not marked(mark)


async def kill_all(plane: Plane, answers: list[KillAllReport]) -> None:
    """Kill all and keep the answer."""
    answers.append(await plane.supervisor.kill_all(actor="tester"))


@pytest.mark.parametrize("moment", ["before the stop", "at the stop", "at the cut", "after the cut", "gone"])
async def test_kill_all_amid_a_stop_that_is_cut_off_acts_and_tells_the_truth(
    reachable_path: Path, ordinary_user: User, moment: str
) -> None:
    answers: list[KillAllReport] = []
    async with at_work(reachable_path, ordinary_user) as (plane, agent), trio.open_nursery() as nursery:
        steps = {
            "before the stop": lambda: None,
            "at the stop": plane.supervisor.leave,
            "at the cut": plane.supervisor.stop,
            "after the cut": plane.running.cancel,
            "gone": lambda: None,
        }
        for name, step in steps.items():
            step()
            if name == "gone":
                await seen(lambda: not plane.supervisor.running(), "every run is over")
            if name == moment:
                nursery.start_soon(kill_all, plane, answers)
                await trio.lowlevel.checkpoint()
        await seen(lambda: answers, "the answer")
        [answer] = answers
        assert (answer.total, answer.killed, answer.remaining) == (3, 3, 0)
        assert not any(each.live for each in plane.store.state.agents.values())
        for task in ("one", "two", "three"):
            [attempt] = await plane.store.agents_of(task)
            assert attempt.status is AgentStatus.KILLED
        events = [each.event for each in await plane.store.events_after(0, types=["agent.killed"])]
        killed = {each.agent_id: each.killed_processes for each in events if isinstance(each, AgentKilled)}
        assert len(killed) == len(events) == 3
        assert (killed.pop(AgentId(agent)), *killed.values()) == (2, 0, 0)


async def test_kill_of_one_that_nobody_will_start_any_more_does_not_wait_for_that(
    reachable_path: Path, ordinary_user: User
) -> None:
    async with at_work(reachable_path, ordinary_user) as (plane, agent):
        plane.supervisor.stop()
        plane.running.cancel()
        await seen(lambda: not plane.supervisor.running(), "its run is over")
        report = await plane.supervisor.kill(agent, actor="tester")
        assert (report.killed_processes, report.remaining) == (2, 0)
        with pytest.raises(AlreadyEnded):
            await plane.supervisor.kill(agent, actor="tester")
