"""A kill, or a stop, at the n-th step of an agent's life, for every n: one end, nothing left, no half push.

A step is one time that Trio runs the agent's task or a child of it. A plain run tries some of them, evenly
over the whole life; `FAULT_STEPS=all` tries each, `FAULT_STEPS=60` so many.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from orchestrator.core.model import Agent, AgentStatus, Reason
from orchestrator.core.reports import KillReport
from orchestrator.errors import AlreadyEnded
from orchestrator.supervise.ending import Killed
from sandbox.base import User
from tests.kit.checker import check
from tests.kit.evidence import Told, gather
from tests.kit.plane import GATED, SECOND_THOUGHTS, Plane, open_plane
from tests.kit.remote import branches, count_pushes, git, make_remote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if "FAULT_STEPS" in os.environ else 240)]

#: Steps that a plain run tries.
KILLS, STOPS = 8, 3
LIFE_S = 60


class Steps(trio.abc.Instrument):
    """Counts the steps of one agent's task and its children, and strikes at the n-th."""

    def __init__(self, number: int = 0, strike: Callable[[], None] = lambda: None) -> None:
        self.taken = 0
        self.agent = ""
        self._number, self._strike = number, strike

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count, where it is one of the agent's."""
        at: trio.lowlevel.Task | None = task
        while at is not None and at.name != f"agent {self.agent}":
            at = at.parent_nursery.parent_task if at.parent_nursery else None
        if at is None or not self.agent:
            return
        self.taken += 1
        if self.taken == self._number:
            self._strike()


def chosen(total: int, samples: int) -> list[int]:
    """Return the steps at which to strike: all, or a sample with the first and the last."""
    if os.environ.get("FAULT_STEPS") == "all":
        return list(range(1, total + 2))
    samples = int(os.environ.get("FAULT_STEPS", samples))
    return sorted({1 + round(number * total / (samples - 1)) for number in range(samples)})


@pytest.fixture
def remote(reachable_path: Path) -> Path:
    """Return a remote with a gate, which writes down what is pushed."""
    bare = make_remote(reachable_path, files=GATED)
    count_pushes(bare)
    return bare


async def live(plane: Plane, remote: Path, task: str, steps: Steps) -> str:
    """Hand a task over whose steps are counted, and return its agent."""
    trio.lowlevel.add_instrument(steps)
    try:
        steps.agent = await plane.submit(remote, SECOND_THOUGHTS, task, gated=True)
        with trio.fail_after(LIFE_S):
            await plane.over(steps.agent)
    finally:
        trio.lowlevel.remove_instrument(steps)
    return steps.agent


def wholly(remote: Path, task: str) -> bool:
    """Return whether the task's branch is there; it is whole then."""
    there = f"agent/{task}" in branches(remote)
    assert not there or git("show", f"agent/{task}:value", cwd=remote) == "7\n"
    return there


async def kill_at(plane: Plane, remote: Path, number: int) -> tuple[Agent, KillReport | None]:
    """Kill the agent of a new task at its n-th step; return how it ended and what the kill was answered."""
    struck, reports = trio.Event(), list[KillReport]()

    def strike() -> None:
        # What `kill` does before its first checkpoint; it is asked for its report afterwards.
        if agent := plane.supervisor.live(steps.agent):
            agent.cut(Killed(Reason.OPERATOR, "tester"))
            struck.set()

    async def kill() -> None:
        await struck.wait()
        with suppress(AlreadyEnded):
            reports.append(await plane.supervisor.kill(steps.agent, actor="tester"))

    steps = Steps(number, strike)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        await live(plane, remote, f"kill-{number}", steps)
        if not struck.is_set():
            nursery.cancel_scope.cancel()
    return await plane.over(steps.agent), (reports[0] if reports else None)


async def test_a_kill_at_any_step_leaves_one_end_and_nothing_else(
    reachable_path: Path, remote: Path, ordinary_user: User
) -> None:
    home, told, ends = reachable_path / "home", list[Told](), Counter[str]()
    async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
        whole = Steps()
        await live(plane, remote, "whole", whole)
        for number in chosen(whole.taken, KILLS):
            agent, report = await kill_at(plane, remote, number)
            if report is not None:
                assert report.remaining == 0
                told.append(Told("kill", agent.id, "ok", {"remaining": report.remaining}))
            assert (agent.status is AgentStatus.KILLED) == (report is not None), (number, agent)
            landed = wholly(remote, f"kill-{number}")
            assert landed or agent.status is AgentStatus.KILLED, (number, agent)
            assert plane.repositories.directories() == []
            ends[f"{agent.status}, {'' if landed else 'not '}landed"] += 1
    assert ends["killed, not landed"] >= KILLS // 2, ends
    assert git("fsck", "--no-dangling", cwd=remote) == ""
    check(gather(home, told=told, remotes=[remote], at_rest=True))


async def test_a_stop_at_any_step_ends_at_the_next_start_as_if_there_had_been_none(
    reachable_path: Path, remote: Path, ordinary_user: User
) -> None:
    home, ends = reachable_path / "home", Counter[str]()
    whole = Steps()
    async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
        await live(plane, remote, "whole", whole)
    for number in chosen(whole.taken, STOPS):
        task = f"stop-{number}"
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            waiting = trio.CancelScope(deadline=trio.current_time() + LIFE_S)

            def stop(plane: Plane = plane, waiting: trio.CancelScope = waiting) -> None:
                plane.supervisor.stop()
                waiting.cancel()

            steps = Steps(number, stop)
            trio.lowlevel.add_instrument(steps)
            steps.agent = await plane.submit(remote, SECOND_THOUGHTS, task, gated=True)
            with waiting:
                await plane.over(steps.agent)
        trio.lowlevel.remove_instrument(steps)
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            ends["over" if await _is_over(plane, steps.agent) else "cut"] += 1
            with trio.fail_after(LIFE_S):
                agent = await plane.over(steps.agent)
            assert plane.repositories.directories() == [], number
        assert (agent.status, agent.crashes) == (AgentStatus.COMPLETED, 0), (number, agent)
        assert wholly(remote, task)
    assert ends["cut"] >= STOPS // 2, ends
    check(gather(home, remotes=[remote], at_rest=True))


async def _is_over(plane: Plane, agent_id: str) -> bool:
    agent = await plane.store.find_agent(agent_id)
    return agent is not None and agent.clean
