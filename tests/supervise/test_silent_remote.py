"""A remote that is away when it is asked whether a push arrived: an agent waits for it, and no start does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import trio

from orchestrator.core import commands as c
from orchestrator.core.model import Agent, AgentId, AgentStatus, Reason
from orchestrator.core.policy import MAX_CRASHES
from orchestrator.journal.store import open_store, utc_now
from sandbox.base import User
from tests.kit.plane import Plane, open_plane
from tests.kit.remote import branches, git, hook, make_remote

#: Ends a push in its middle, and makes the remote one that answers nothing.
VANISH = "mv HEAD away; kill -9 $PPID"


def come_back(remote: Path) -> None:
    """Let the remote answer again, and take pushes."""
    (remote / "hooks" / "pre-receive").unlink()
    (remote / "away").rename(remote / "HEAD")


async def known(plane: Plane, agent_id: str) -> Agent:
    """Return an agent as it is now."""
    agent = await plane.store.find_agent(agent_id)
    assert agent is not None
    return agent


async def until_it(plane: Plane, agent_id: str, does: Callable[[Agent], bool]) -> Agent:
    """Wait until an agent does what is asked for."""
    while not does(agent := await known(plane, agent_id)):
        await plane.store.wait_past(plane.store.state.seq)
    return agent


async def turns(plane: Plane, agent_id: str) -> int:
    """Return how many turns an agent took."""
    return len(await plane.store.events_after(0, types=["agent.turn"], agent_id=agent_id))


def leaps(step_s: float) -> Callable[[], datetime]:
    """Return a clock on which, between two looks, every wait is over."""
    looks = itertools.count(1)
    return lambda: utc_now() + timedelta(seconds=step_s * next(looks))


@pytest.mark.parametrize("again", [False, True])
async def test_an_agent_whose_remote_vanishes_amid_a_push_waits_for_it_and_lands(
    reachable_path: Path, ordinary_user: User, again: bool
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    hook(remote, "pre-receive", VANISH)
    with trio.fail_after(50):
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            agent = await plane.submit(remote, "echo 7 > value", "waits")
            waits = await until_it(plane, agent, lambda each: each.not_before is not None)
            assert (waits.status, waits.active, waits.crashes) == (AgentStatus.RUNNING, False, 0)
        if again:  # it is still away when it is asked about the push that was cut
            async with open_plane(home, user=ordinary_user, roots=reachable_path, clock=leaps(20)) as plane:
                await until_it(plane, agent, lambda each: each.active)
                await until_it(plane, agent, lambda each: not each.active)
                assert (await known(plane, agent)).status is AgentStatus.RUNNING
        come_back(remote)
        async with open_plane(home, user=ordinary_user, roots=reachable_path, clock=leaps(20)) as plane:
            end = await plane.over(agent)
            assert (end.status, end.reason, end.attempt) == ("completed", Reason.DONE, 1)
            assert await turns(plane, agent) == 1, "the work was done"
    assert branches(remote)["agent/waits"] == end.commit


async def test_patience_with_a_remote_ends_and_the_work_is_salvaged(
    reachable_path: Path, ordinary_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.supervise.finish.MAX_POSTPONED", 2)
    home, remote = reachable_path / "home", make_remote(reachable_path)
    hook(remote, "pre-receive", VANISH)
    with trio.fail_after(50):
        async with open_plane(home, user=ordinary_user, roots=reachable_path, clock=leaps(20)) as plane:
            agent = await plane.submit(remote, "echo 7 > value", "given-up")
            end = await plane.over(agent)
            assert (end.status, end.reason) == ("failed", Reason.REPOSITORY_ERROR)
            [cleanup] = await plane.store.events_after(0, types=["agent.cleanup"])
            assert cleanup.event.salvage == f"refs/salvage/{agent}"  # type: ignore[attr-defined]
            resumed = await plane.store.events_after(0, types=["agent.resumed"], agent_id=agent)
            assert len(resumed) == 2


async def crash(home: Path, agent_id: str, times: int) -> None:
    """Let the agent be cut by so many crashes, the last of which the next start finds, frozen."""
    async with (
        open_store(home, home / "orchestrator.db", clock=leaps(20)) as store,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(store.run)
        for number in range(times):
            if number:
                await store.submit(c.ResumeAgent(AgentId(agent_id), crashed=True))
            await store.submit(c.AssignAgent(AgentId(agent_id)))
        await store.submit(c.Freeze())
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("landed", "crashes", "reason"),
    [(True, MAX_CRASHES, Reason.DONE), (False, MAX_CRASHES, Reason.CRASH_LOOP), (False, 1, Reason.DONE)],
)
async def test_a_start_asks_no_remote_and_the_next_run_does_before_anything_else(
    reachable_path: Path, ordinary_user: User, landed: bool, crashes: int, reason: Reason
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    hook(remote, "pre-receive", VANISH)
    with trio.fail_after(50):
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            agent = await plane.submit(remote, "echo 7 > value", "cut")
            cut = await until_it(plane, agent, lambda each: each.not_before is not None)
            assert cut.push
        come_back(remote)
        if landed:
            mirror = next((home / "mirrors").iterdir())
            git("fetch", "-q", str(mirror), cut.push.new, cwd=remote)
            git("update-ref", cut.push.ref, cut.push.new, cwd=remote)
        await crash(home, agent, crashes)
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            assert (await known(plane, agent)).status is AgentStatus.RUNNING, "not asked before the thaw"
            await plane.supervisor.switches.thaw(actor="tester")
            assert (await plane.over(agent)).reason is reason
            assert (await turns(plane, agent)) == 1, "nothing was done again"
            [salvage] = [
                cleanup.event.salvage  # type: ignore[attr-defined]
                for cleanup in await plane.store.events_after(0, types=["agent.cleanup"])
            ]
            assert bool(salvage) is (reason is Reason.CRASH_LOOP)
    assert ("agent/cut" in branches(remote)) is (reason is Reason.DONE)
