"""Our copy of a repository is damaged under agents: none fails for it, and none of their work goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import trio

from orchestrator.core.model import AgentStatus, Reason
from orchestrator.core.recovery import directory_of
from orchestrator.journal.store import utc_now
from sandbox.base import User
from tests.kit.plane import Plane, open_plane
from tests.kit.remote import git, make_remote
from tests.kit.until import seen


def later() -> datetime:
    """Return a time at which whoever was postponed once may go on."""
    return utc_now() + timedelta(seconds=20)


def tear(home: Path) -> None:
    """Fill the indexes of the mirror's packs with zeros."""
    [mirror] = [path for path in (home / "mirrors").iterdir() if len(path.name) == 64]
    git("repack", "-adq", cwd=mirror)
    for path in (mirror / "objects" / "pack").glob("*.idx"):
        path.chmod(0o644)
        path.write_bytes(b"\0" * path.stat().st_size)


async def told(plane: Plane) -> list[tuple[str, str | None]]:
    """Return which parts were said to be degraded and recovered."""
    found = await plane.store.events_after(0, types=["system.degraded", "system.recovered"])
    said = [(recorded.event.name, getattr(recorded.event, "part", None)) for recorded in found]
    return [each for each in said if each[1]]


async def works(plane: Plane, home: Path, remote: Path, script: str, task: str) -> str:
    """Start an agent and return it once it has written what it writes."""
    agent = await plane.submit(remote, script, task)
    files = home / "workspaces" / directory_of(agent, task)
    await seen(lambda: [*files.glob("*/work")], "the work")
    return agent


def unfound(home: Path) -> None:
    """Remove the mirror's objects, so that no sandbox can show them."""
    for path in (home / "mirrors").glob("*/objects"):
        shutil.rmtree(path)


def squat(home: Path) -> None:
    """Put a file into the place of the mirror."""
    [mirror] = [path for path in (home / "mirrors").iterdir() if len(path.name) == 64]
    shutil.rmtree(mirror)
    mirror.write_text("no directory")


@pytest.mark.parametrize(
    ("harm", "how"),
    [
        (tear, "of no use to us"),
        (tear, "of no use to it"),
        (unfound, "of no use to us"),
        (squat, "of no use to us"),
    ],
)
async def test_an_agent_whose_copy_is_torn_meanwhile_lands_without_another_attempt(
    reachable_path: Path, ordinary_user: User, harm: Callable[[Path], None], how: str
) -> None:
    home, remote, go = reachable_path / "home", make_remote(reachable_path), reachable_path / "go"
    uses = "git log -1 HEAD^{tree} && git fsck" if how == "of no use to it" else "true"
    script = f"echo 1 >> work; until [ -e {go} ]; do sleep 0.05; done; {uses}"
    with trio.fail_after(60):
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            agent = await works(plane, home, remote, script, "torn")
            harm(home)
            go.touch()
            while (found := await plane.store.find_agent(agent)) and found.not_before is None:
                assert found.live, found.error
                await plane.store.wait_past(plane.store.state.seq)
        async with open_plane(home, user=ordinary_user, roots=reachable_path, clock=later) as plane:
            end = await plane.over(agent)
            assert (end.status, end.reason, end.attempt, end.crashes) == ("completed", "done", 1, 0)
            assert await told(plane) == [("system.degraded", "mirror"), ("system.recovered", "mirror")]
    assert git("show", "agent/torn:work", cwd=remote) == ("1\n" if how == "of no use to us" else "1\n1\n")


async def test_work_of_a_killed_agent_stays_until_there_is_a_copy_to_keep_it_in(
    reachable_path: Path, ordinary_user: User
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    real = remote.with_name("real.git")
    with trio.fail_after(60):
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            agent = await works(plane, home, remote, "echo 1 > work; exec sleep 1000", "killed")
            tear(home)
            remote.rename(real)
            remote.mkdir()
            assert (await plane.supervisor.kill(agent, actor="tester")).remaining == 0
            await seen(lambda: agent not in plane.supervisor.running(), "the end of its salvage")
            assert plane.repositories.directories() == [directory_of(agent, "killed")]
            assert not (await plane.store.find_agent(agent)).clean  # type: ignore[union-attr]
        remote.rmdir()
        real.rename(remote)
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            assert (await plane.over(agent)).status is AgentStatus.KILLED
            patch = await plane.repositories.diff(
                f"file://{remote}",
                git("rev-parse", "main", cwd=remote).strip(),
                f"refs/salvage/{agent}",
                max_bytes=10_000,
            )
            assert b"work" in patch
            assert plane.repositories.directories() == []


def empty(home: Path) -> None:
    """Remove the mirror's packs with their indexes, so that nothing is left to be seen."""
    tear(home)
    for path in (home / "mirrors").glob("*/objects/pack/*"):
        path.unlink()


@pytest.mark.parametrize("harm", [tear, empty])
async def test_an_agent_that_a_stop_cut_goes_on_over_a_copy_that_was_damaged_meanwhile(
    reachable_path: Path, ordinary_user: User, harm: Callable[[Path], None]
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    script = 'echo 1 >> work; [ "$ORCHESTRATOR_RESUMED" = 1 ] || exec sleep 1000'
    with trio.fail_after(60):
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            agent = await works(plane, home, remote, script, "cut")
        harm(home)
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            end = await plane.over(agent)
            assert (end.status, end.reason, end.attempt) == ("completed", Reason.DONE, 1)
            assert await told(plane) == [("system.degraded", "mirror"), ("system.recovered", "mirror")]
    assert git("show", "agent/cut:work", cwd=remote) == "1\n1\n"
