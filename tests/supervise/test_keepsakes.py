"""Work that did not land is kept, told, got back, dropped by hand and by time."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import trio

from orchestrator.journal.store import utc_now
from orchestrator.supervise.keepsakes import Keepsakes
from sandbox.base import User
from tests.kit.plane import Plane, open_plane
from tests.kit.remote import git, make_remote

FAILS = "echo mine > new.txt; echo more >> README.md; exit 3"


async def fail(plane: Plane, remote: Path, task: str = "t") -> str:
    """Let an agent fail with work in its hands, and return it."""
    agent = await plane.submit(remote, FAILS, task)
    assert (await plane.over(agent)).reason == "agent_error"
    return agent


async def test_it_is_told_with_its_files_and_can_be_fetched_and_applied(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path)
    with trio.fail_after(60):
        async with open_plane(reachable_path / "home", user=ordinary_user, roots=reachable_path) as plane:
            agent = await fail(plane, remote)
            kept = Keepsakes(plane.store, plane.repositories, keep_days=30)
            [told] = (await kept.list()).salvages
            shown = await kept.show(agent)
            patch = await kept.patch(agent, max_bytes=10_000)
    assert (told.agent_id, told.task_id, told.repository) == (agent, "t", f"file://{remote}")
    assert shown is not None
    assert [(file.path, file.additions) for file in shown.files] == [("README.md", 1), ("new.txt", 1)]
    assert shown.base == git("rev-parse", "main", cwd=remote).strip()
    clone = reachable_path / "clone"
    git("clone", "-q", str(remote), str(clone))
    git("-c", "safe.directory=*", *shown.fetch.split()[1:], cwd=clone)
    assert git("show", "FETCH_HEAD:new.txt", cwd=clone) == "mine\n"
    (clone / "patch").write_bytes(patch or b"")
    git("apply", "patch", cwd=clone)
    assert (clone / "new.txt").read_text() == "mine\n"


async def test_whoever_drops_one_is_audited_and_the_rest_stays(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path)
    with trio.fail_after(60):
        async with open_plane(reachable_path / "home", user=ordinary_user, roots=reachable_path) as plane:
            agents = [await fail(plane, remote, task) for task in ("one", "two")]
            kept = Keepsakes(plane.store, plane.repositories)
            assert (dropped := await kept.drop(agents[0], actor="ada")) is not None
            assert await kept.drop(agents[0], actor="ada") is None
            assert [each.agent_id for each in (await kept.list()).salvages] == [agents[1]]
            for strange in ("", "..", "../../base", "a" * 100, "x\n", agents[1] + "/.."):
                assert await kept.show(strange) is None
                assert await kept.drop(strange, actor="ada") is None
    with closing(sqlite3.connect(reachable_path / "home/orchestrator.db")) as journal:
        trail = journal.execute("SELECT actor, target, detail FROM audit WHERE action = 'salvage.drop'")
        assert trail.fetchall() == [("ada", agents[0], dropped.commit)]


@pytest.mark.parametrize(("days", "later", "left"), [(30, 31, 0), (30, 29, 1), (0, 3650, 1)])
async def test_it_goes_when_its_time_is_over_and_never_before(
    reachable_path: Path, ordinary_user: User, days: int, later: int, left: int
) -> None:
    remote = make_remote(reachable_path)
    with trio.fail_after(60):
        async with open_plane(reachable_path / "home", user=ordinary_user, roots=reachable_path) as plane:
            await fail(plane, remote)
            kept = Keepsakes(plane.store, plane.repositories, days, lambda: utc_now() + timedelta(days=later))
            assert await kept.expire() == 1 - left
            assert len((await kept.list()).salvages) == left
