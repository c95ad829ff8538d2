"""Work that cannot be salvaged for the moment stays, is tried again within bounds, and is told of."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trio

from orchestrator.core import commands as c
from orchestrator.core.model import Agent, AgentStatus, Reason
from orchestrator.core.recovery import directory_of
from orchestrator.journal.store import utc_now
from orchestrator.supervise.backlog import FIRST_S, KEEP, MAX_BYTES, MORE_BYTES, Backlog
from orchestrator.supervise.garbage import collect_garbage
from orchestrator.supervise.gear import Tools
from orchestrator.supervise.reaper import Reaper
from sandbox.base import Limits, Sandbox, SandboxLaunchFailed, Spec, User
from sandbox.trusted import ProcessBackend
from tests.core.ledger import Ledger
from tests.kit.plane import Plane, open_plane
from tests.kit.remote import make_remote
from tests.kit.until import seen
from tests.supervise.test_damaged_copy import told

#: More room than any salvage here is short of.
AMPLE = 2**60


class Short(ProcessBackend):
    """A backend that starts nothing, while it is short of something."""

    short = False

    def open(self, spec: Spec) -> AbstractAsyncContextManager[Sandbox]:
        """Start the command, or fail."""
        if self.short:
            raise SandboxLaunchFailed("too many open files")
        return super().open(spec)


async def cleanups(plane: Plane, agent: str) -> list[object]:
    """Return how it was journaled that an agent was cleaned up after."""
    found = await plane.store.events_after(0, types=["agent.cleanup"], agent_id=agent)
    return [recorded.event for recorded in found]


@pytest.mark.parametrize("how", ["failed", "killed"])
async def test_work_that_could_not_be_salvaged_stays_is_told_of_and_salvaged_later(
    reachable_path: Path, ordinary_user: User, how: str
) -> None:
    home, remote, go = reachable_path / "home", make_remote(reachable_path), reachable_path / "go"
    backend = Short(ordinary_user, path="/usr/bin:/bin")
    script = f"echo 7 > value; until [ -e {go} ]; do sleep 0.05; done; exit 3"
    with trio.fail_after(50):
        async with open_plane(home, user=ordinary_user, roots=reachable_path, backend=backend) as plane:
            agent = await plane.submit(remote, script, "kept")
            name = directory_of(agent, "kept")
            await seen(lambda: [*(home / "workspaces" / name).glob("*/value")], "the work")
            backend.short = True
            if how == "killed":
                await plane.supervisor.kill(agent, actor="tester")
            go.touch()
            await seen(lambda: agent not in plane.supervisor.running(), "its end")
            end = await plane.store.find_agent(agent)
            assert end is not None
            assert (end.status, end.clean) == (how, False)
            tools = Tools(plane.store, plane.repositories, home / "scratch", Limits(), yolo=False)
            for dry in (True, False):
                [item] = (await collect_garbage(tools, tuple, dry_run=dry)).items
                assert (item.kind, item.name, item.removed) == ("unsalvaged", f"quarantine/{name}", False)
                assert item.bytes > 0
        async with open_plane(home, user=ordinary_user, roots=reachable_path, backend=backend) as plane:
            assert (await cleanups(plane, agent), plane.repositories.directories()) == ([], [name])
            backend.short = False
        async with open_plane(home, user=ordinary_user, roots=reachable_path, backend=backend) as plane:
            assert (await plane.over(agent)).status == how
            [cleanup] = await cleanups(plane, agent)
            assert cleanup.salvage == f"refs/salvage/{agent}"  # type: ignore[attr-defined]
            assert plane.repositories.directories() == []


async def test_work_is_salvaged_without_a_restart_once_it_can_be_and_both_are_told(
    reachable_path: Path, ordinary_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    backend = Short(ordinary_user, path="/usr/bin:/bin")
    monkeypatch.setattr("orchestrator.supervise.backlog.FIRST_S", 0.0)
    monkeypatch.setattr("orchestrator.supervise.reaper.SOON_S", 0.05)
    with trio.fail_after(50):
        async with (
            open_plane(home, user=ordinary_user, roots=reachable_path, backend=backend) as plane,
            trio.open_nursery() as passes,
        ):
            agent = await plane.submit(remote, "echo 7 > value; exec sleep 1000", "kept")
            files = home / "workspaces" / directory_of(agent, "kept")
            await seen(lambda: [*files.glob("*/value")], "the work")
            live = plane.supervisor.live(agent)
            assert live is not None
            passes.start_soon(Reaper(live.run.tools, backend, running=plane.supervisor.running).run)
            backend.short = True
            await plane.supervisor.kill(agent, actor="tester")
            while ("system.degraded", "salvage") not in await told(plane):
                await plane.store.wait_past(plane.store.state.seq)
            assert not await cleanups(plane, agent)
            backend.short = False
            while ("system.recovered", "salvage") not in await told(plane):
                await plane.store.wait_past(plane.store.state.seq)
            assert f"refs/salvage/{agent}" in str(await cleanups(plane, agent))
            passes.cancel_scope.cancel()


async def test_work_that_can_never_be_salvaged_is_given_up_in_the_end_and_that_is_told(
    reachable_path: Path, ordinary_user: User
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    backend = Short(ordinary_user, path="/usr/bin:/bin")
    with trio.fail_after(50):
        async with open_plane(home, user=ordinary_user, roots=reachable_path, backend=backend) as plane:
            agent = await plane.submit(remote, "echo 7 > value; exec sleep 1000", "lost")
            files = home / "workspaces" / directory_of(agent, "lost")
            await seen(lambda: [*files.glob("*/value")], "the work")
            backend.short = True
            await plane.supervisor.kill(agent, actor="tester")
        for hours, stays in ((-1, True), (1, False)):
            at = partial(after, KEEP + timedelta(hours=hours))
            async with open_plane(
                home, user=ordinary_user, roots=reachable_path, backend=backend, clock=at
            ) as plane:
                assert bool(plane.repositories.directories()) is stays
                assert len(await cleanups(plane, agent)) == (not stays)
        async with open_plane(home, user=ordinary_user, roots=reachable_path, backend=backend) as plane:
            assert (await plane.over(agent)).status is AgentStatus.KILLED
            [cleanup] = await cleanups(plane, agent)
            assert "given up 24 h after its end" in str(cleanup)


def after(wait: timedelta) -> datetime:
    """Return a later time."""
    return utc_now() + wait


def killed(ledger: Ledger, name: str) -> Agent:
    """Return an agent that was killed."""
    ledger.pass_s(1)
    agent_id = ledger.start(f"t-{name}", name)
    ledger.submit(c.KillAgent(agent_id, Reason.OPERATOR))
    return ledger.state.agents[agent_id]


def test_tries_become_rarer_and_the_oldest_goes_where_all_takes_too_much_room() -> None:
    ledger, backlog = Ledger(), Backlog()
    old, new = killed(ledger, "old"), killed(ledger, "new")
    assert old.completed_at
    assert new.completed_at
    assert old.completed_at < new.completed_at
    today, pauses, now = new.completed_at, [], 0.0
    assert backlog.is_due(old.id, now, AMPLE)
    for _ in range(12):
        assert backlog.put(old, "short", MAX_BYTES, now=now, today=today, free=AMPLE) is None
        waits = backlog.find(old.id)
        assert waits
        assert not backlog.is_due(old.id, now, 2 * AMPLE), "it was not for want of room"
        assert backlog.is_due(old.id, waits.again, AMPLE)
        pauses.append(waits.again - now)
        now = waits.again
    assert (pauses[0], pauses[1], pauses[-1]) == (FIRST_S, 2 * FIRST_S, 3600)
    assert backlog.put(new, "short", 1, now=now, today=today, free=AMPLE) is None, "it is the younger"
    assert "more than" in (backlog.put(old, "short", MAX_BYTES, now=now, today=today, free=AMPLE) or "")
    backlog.drop(old.id)
    assert backlog.put(new, "short", 1, now=now, today=today, free=AMPLE) is None
    assert backlog.put(new, "short", 1, now=now, today=today + KEEP, free=AMPLE)


def test_what_was_short_of_room_is_due_as_soon_as_there_is_more_and_not_before() -> None:
    ledger, backlog = Ledger(), Backlog()
    agent = killed(ledger, "filled")
    assert agent.completed_at
    for _ in range(8):
        backlog.put(agent, "no space", 100 * 2**20, now=0.0, today=agent.completed_at, free=2**20)
    assert not backlog.is_due(agent.id, 60.0, 2**20)
    assert backlog.is_due(agent.id, 60.0, 2**20 + MORE_BYTES)
    assert "work of 1 ended agents waits to be kept: no space" in backlog.tell()
    backlog.drop(agent.id)
    assert not backlog
