"""A tree reaches every sandbox of its agent, at any moment, and proves it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from orchestrator.supervise.resources import FRESH_S, Gauge
from orchestrator.supervise.tree import Tree
from sandbox.base import Directory, Spec, Usage, User
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.trusted import ProcessBackend
from tests.kit.processes import fresh_mark, marked
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


async def test_frozen_tree_stands_still_opens_nothing_and_is_killed(tree: Tree, reachable_path: Path) -> None:
    opened, over = trio.Event(), trio.Event()

    async def open_late() -> None:
        async with tree.open(spec(reachable_path, "exit 7")) as sandbox:
            opened.set()
            assert (await sandbox.wait()).code == 7
            over.set()

    async with (
        trio.open_nursery() as nursery,
        tree.open(spec(reachable_path, "read -r word; echo $word; sleep 1000 & wait")) as sandbox,
    ):
        with tree.clock.move_on_after(0.1) as deadline:
            tree.freeze_nowait()
            await sandbox.stdin.send_all(b"up\n")
            nursery.start_soon(open_late)
            with trio.move_on_after(0.5):
                await read_until(sandbox, b"up")
                raise AssertionError("it went on")
            assert not opened.is_set()
            assert not deadline.cancel_called
            tree.thaw_nowait()
            deadline.deadline = trio.current_time() + 30
            await read_until(sandbox, b"up")
        with trio.fail_after(30):
            await over.wait()
        tree.freeze_nowait()
        tree.kill_nowait()
    assert tree.killed >= 1
    assert tree.remaining == 0


async def test_sandbox_that_is_asked_for_in_a_frozen_tree_starts_with_the_thaw(
    tree: Tree, reachable_path: Path
) -> None:
    began = trio.Event()

    async def launch() -> None:
        async with tree.open(spec(reachable_path, "echo up; sleep 1000")) as sandbox:
            began.set()
            await read_until(sandbox, b"up")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(launch)
        tree.freeze_nowait()
        with trio.move_on_after(0.2):
            await began.wait()
        assert not began.is_set()
        assert tree.starting == 0
        tree.thaw_nowait()


async def test_salvage_goes_on_in_a_frozen_tree_once_its_agent_is_over(
    tree: Tree, reachable_path: Path
) -> None:
    tree.freeze_nowait()
    tree.kill_nowait()
    tree.reopen()
    with trio.fail_after(10):
        async with tree.open(spec(reachable_path, "exit 0")) as sandbox:
            assert (await sandbox.wait()).ok


async def test_kill_that_comes_in_the_midst_of_a_launch_has_its_proof_too(
    ordinary_user: User, reachable_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, mark = Tree(BubblewrapBackend(ordinary_user)), fresh_mark("launch")

    async def live() -> None:
        async with tree.open(replace(spec(reachable_path, "sleep 1000"), env={"MARK": mark})):
            started.append(True)

    started: list[bool] = []
    monkeypatch.setattr("sandbox.confined.PROOF_S", 0.0)  # so that the proof says what it has not seen
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        await trio.testing.wait_all_tasks_blocked()
        assert tree.starting == 1
        tree.kill_nowait()
        nursery.cancel_scope.cancel()
    assert not started
    assert tree.remaining == 1
    await seen(lambda: not marked(mark), "it ends all the same")
