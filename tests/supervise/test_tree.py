"""A tree reaches every sandbox of its agent, at any moment, and proves it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from orchestrator.supervise.resources import FRESH_S, Gauge
from orchestrator.supervise.tree import Tree
from sandbox.base import Directory, Spec, Usage, User
from sandbox.trusted import ProcessBackend
from tests.kit.sandboxes import read_until
from tests.kit.until import seen


@pytest.fixture
def tree(ordinary_user: User) -> Tree:
    """Return a tree over the plainest backend: what it adds is the same over each."""
    return Tree(ProcessBackend(ordinary_user, path="/usr/bin:/bin"))


def spec(place: Path, script: str) -> Spec:
    """Return a script to run."""
    return Spec(label="agent-1", command=("sh", "-c", script), workspace=Directory(place))


async def test_kill_ends_two_sandboxes_at_once_and_adds_their_proofs(
    tree: Tree, reachable_path: Path
) -> None:
    async def live() -> None:
        async with tree.open(spec(reachable_path, "sleep 1000 & echo up; wait")) as sandbox:
            await read_until(sandbox, b"up")
            ready.append(True)
            await sandbox.wait()

    ready: list[bool] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        nursery.start_soon(live)
        await seen(lambda: len(ready) == 2, "both are up")
        assert tree.usage().processes == 4
        assert tree.usage().memory_bytes > 0
        tree.kill_nowait()
    assert tree.killed == 4
    assert tree.remaining == 0
    assert tree.processes() == []


async def test_sandbox_that_opens_during_a_kill_dies_at_once(tree: Tree, reachable_path: Path) -> None:
    tree.kill_nowait()
    with trio.fail_after(10):
        async with tree.open(spec(reachable_path, "sleep 1000")) as sandbox:
            ended = await sandbox.wait()
    assert not ended.ok


async def test_reopened_tree_runs_again(tree: Tree, reachable_path: Path) -> None:
    tree.kill_nowait()
    tree.reopen()
    async with tree.open(spec(reachable_path, "exit 0")) as sandbox:
        assert (await sandbox.wait()).ok


def test_many_who_ask_within_a_moment_share_one_look_at_the_processes() -> None:
    looks: list[Usage] = []

    def look() -> Usage:
        looks.append(Usage(processes=len(looks) + 1))
        return looks[-1]

    gauge = Gauge()
    answers = {gauge.read(look, 100.0 + FRESH_S * share / 100) for share in range(100)}
    assert len(looks) == len(answers) == 1
    assert gauge.read(look, 100.0 + FRESH_S).processes == 2
    assert len(looks) == 2
