"""An agent that a stop cut is ended meanwhile, or in its second life: nothing is lost, nothing goes on."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import trio

from orchestrator.core import events as e
from orchestrator.core.model import Agent, AgentStatus, Phase
from orchestrator.core.recovery import directory_of
from orchestrator.journal.store import open_store, utc_now
from sandbox.base import Sandbox, Spec, User
from sandbox.trusted import ProcessBackend
from tests.kit.plane import Plane, open_plane
from tests.kit.remote import make_remote
from tests.kit.until import seen

#: Writes something, says so, and never ends.
ENDLESS = "echo 7 > value; exec sleep 1000"


class Stuck(ProcessBackend):
    """A backend whose sandboxes do not start, once it is stuck."""

    stuck = False
    #: Sandboxes that somebody waits for.
    asked = 0

    def open(self, spec: Spec) -> AbstractAsyncContextManager[Sandbox]:
        """Start the command, or never."""
        return self._wait() if self.stuck else super().open(spec)

    @asynccontextmanager
    async def _wait(self) -> AsyncIterator[Sandbox]:
        self.asked += 1
        await trio.sleep_forever()
        yield


async def known(plane: Plane, agent_id: str) -> Agent:
    """Return an agent as it is now."""
    agent = await plane.store.find_agent(agent_id)
    assert agent is not None
    return agent


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
            assert (await known(plane, agent)).status is AgentStatus.KILLED


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
            assert (await known(plane, agent)).status is AgentStatus.KILLED
            assert runs in plane.supervisor.running()


@pytest.mark.parametrize("how", ["failed", "killed"])
async def test_a_stop_during_a_salvage_keeps_the_end_and_leaves_the_salvage_to_the_next_start(
    reachable_path: Path, ordinary_user: User, how: str
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    backend = Stuck(ordinary_user, path="/usr/bin:/bin")
    go = reachable_path / "go"
    script = f"echo 7 > value; until [ -e {go} ]; do sleep 0.05; done; exit 3"
    with trio.fail_after(30):
        async with open_plane(home, user=ordinary_user, roots=reachable_path, backend=backend) as plane:
            agent = await plane.submit(remote, script, "cut")
            files = home / "workspaces" / directory_of(agent, "cut")
            await seen(lambda: [*files.glob("*/value")], "the work")
            backend.stuck = True
            if how == "killed":
                await plane.supervisor.kill(agent, actor="tester")
            go.touch()
            await seen(lambda: backend.asked, "a salvage")
        assert (await ended_as(home, agent)) == (how, 0)
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            after = await plane.over(agent)
            assert (after.status, after.crashes) == (how, 0)
            [cleanup] = await plane.store.events_after(0, types=["agent.cleanup"])
            assert cleanup.event.salvage == f"refs/salvage/{agent}"  # type: ignore[attr-defined]
            assert plane.repositories.directories() == []


async def ended_as(home: Path, agent_id: str) -> tuple[str, int]:
    """Return an agent's status and the crashes that count against it, with nothing running."""
    async with open_store(home, home / "orchestrator.db", clock=utc_now) as store:
        agent = await store.find_agent(agent_id)
    assert agent is not None
    return agent.status, agent.crashes


@pytest.mark.parametrize(("asked", "crashes"), [(True, 0), (False, 1)])
async def test_an_end_that_a_stop_was_asked_for_counts_as_no_crash_however_it_came(
    reachable_path: Path, ordinary_user: User, asked: bool, crashes: int
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    with trio.fail_after(30):
        with trio.CancelScope() as cut:
            async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
                agent = await written(plane, home, remote, "cut")
                if asked:
                    await plane.store.record(e.SystemStopping())
                cut.cancel()
                await trio.sleep_forever()
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            assert (await known(plane, agent)).crashes == crashes


async def test_a_worktree_that_cannot_be_opened_for_the_moment_is_waited_for_and_not_given_up(
    reachable_path: Path, ordinary_user: User
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    away = remote.with_name("away.git")
    with trio.fail_after(50):
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            agent = await written(plane, home, remote, "kept")
        remote.rename(away)
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            while (waits := await known(plane, agent)).not_before is None:
                await plane.store.wait_past(plane.store.state.seq)
            assert (waits.status, waits.active, waits.crashes) == (AgentStatus.RUNNING, False, 0)
            assert plane.repositories.directories() == [directory_of(agent, "kept")]
        away.rename(remote)

        def later() -> datetime:
            return utc_now() + timedelta(seconds=20)

        async with open_plane(home, user=ordinary_user, roots=reachable_path, clock=later) as plane:
            while (await known(plane, agent)).phase is not Phase.WORKING:
                await plane.store.wait_past(plane.store.state.seq)
            phases = await plane.store.events_after(0, types=["agent.phase"], agent_id=agent)
            worktrees = [getattr(recorded.event, "worktree", None) for recorded in phases]
            assert [word for word in worktrees if word] == ["new", "kept"]


def lose(quarantine: Path) -> None:
    """Remove it."""
    shutil.rmtree(quarantine)


def replace(quarantine: Path) -> None:
    """Put a file in its place."""
    shutil.rmtree(quarantine)
    quarantine.write_text("x")


def nest(quarantine: Path) -> None:
    """Write what no parser follows to its end."""
    (quarantine / "tenancy.json").write_text("[" * 16_000)


@pytest.mark.parametrize("harm", [lose, replace, nest])
async def test_where_nothing_vouches_for_a_worktree_the_work_begins_anew(
    reachable_path: Path, ordinary_user: User, harm: Callable[[Path], None]
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    with trio.fail_after(50):
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            agent = await written(plane, home, remote, "harmed")
        harm(home / "quarantine" / directory_of(agent, "harmed"))
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            while (await known(plane, agent)).phase is not Phase.WORKING:
                await plane.store.wait_past(plane.store.state.seq)
            phases = await plane.store.events_after(0, types=["agent.phase"], agent_id=agent)
            worktrees = [getattr(recorded.event, "worktree", None) for recorded in phases]
            assert [word for word in worktrees if word] == ["new", "new"]
