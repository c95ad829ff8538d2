"""Agents that change the same files are told of before it comes to a conflict, while they work."""

from __future__ import annotations

from pathlib import Path

from orchestrator.core import events as e
from orchestrator.supervise.radar import Scout
from sandbox.base import User
from sandbox.bubblewrap import BubblewrapBackend
from tests.kit.remote import make_remote
from tests.kit.until import seen
from tests.supervise.test_landing_together import LOG, planed, told


def pairs(found: list[e.Event]) -> list[tuple[str, str, tuple[str, ...], bool]]:
    """Return who was told of whom, and of which files."""
    return [
        (event.task_id, event.other_task_id, event.files, event.landed)
        for event in found
        if isinstance(event, e.ConflictPredicted)
    ]


async def test_a_branch_that_has_landed_is_told_to_the_next_who_changes_its_files(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=LOG)
    async with planed(reachable_path, ordinary_user) as plane:
        for task in ("one", "two"):
            await plane.over(await plane.submit(remote, f"echo {task} >> log.txt", task))
        await plane.over(await plane.submit(remote, "echo 3 > three", "three"))
        found = await told(plane, "conflict.predicted")
    assert pairs(found) == [("two", "one", ("log.txt",), True)]


async def test_agents_at_work_are_told_of_each_other_before_they_are_done(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=LOG)
    backend = BubblewrapBackend(ordinary_user)
    async with planed(reachable_path, ordinary_user, backend=backend) as plane:
        for task in ("one", "two"):
            await plane.submit(remote, f"echo {task} >> log.txt; sleep 1000", task)
        written = "home/workspaces/*/upper/log.txt"
        await seen(lambda: len(list(reachable_path.glob(written))) == 2, "their work")
        scout = Scout(plane.supervisor.lives)
        await scout.look()
        await scout.look()
        found = await told(plane, "conflict.predicted")
    assert len(pairs(found)) == 1
    assert pairs(found)[0][2:] == (("log.txt",), False)
