"""The watchdog ends what is beyond a watched ceiling, in real sandboxes, and nobody else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
import trio

from orchestrator.core.ceilings import HARD_MARK_MB, MAX_DEPTH
from orchestrator.core.model import AgentId, Reason
from orchestrator.journal.store import Store
from orchestrator.supervise.ending import Killed
from orchestrator.supervise.gear import Progress, Run, Tools
from orchestrator.supervise.live import Live
from orchestrator.supervise.tree import Tree
from orchestrator.supervise.watchdog import Watchdog
from sandbox.base import Backend, Directory, Exit, Limits, Spec, User
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.trusted import ProcessBackend
from tests.kit.sandboxes import read_until
from tests.supervise.conftest import OpenStore, submit

HOLD = "import sys; held = b'x' * (int(sys.argv[1]) << 20); print('up', flush=True); input()"
ROUNDS = 50


def live_agent(store: Store, agent_id: AgentId, user: User, backend: Backend | None = None) -> Live:
    """Return a live agent of the store's, whose sandboxes are plain processes where nothing is said."""
    agent = store.state.agents[agent_id]
    tree = Tree(backend or ProcessBackend(user, path="/usr/bin:/bin"))
    spec = store.state.tasks[agent.task_id].spec
    return Live(Run(agent, spec, tree, cast("Tools", None), Progress()))


def watch(*lives: Live, left: Mapping[str, float] = {}) -> Watchdog:
    """Return a watchdog over these agents on a host that has so much left."""
    return Watchdog(lambda: lives, lambda: left)


def spec_of(place: Path, limits: Limits, *command: str) -> Spec:
    """Return a command in a directory of its own."""
    return Spec("watched", command, Directory(place), limits=limits)


async def until_ended(dog: Watchdog, live: Live, spec: Spec, word: bytes = b"up") -> Exit:
    """Run a command until rounds of the watchdog have ended it."""
    async with live.run.tree.open(spec) as sandbox:
        await read_until(sandbox, word)
        for _ in range(ROUNDS):
            await dog.round()
            if live.run.tree.sandboxes()[0].excess is not None:
                return await sandbox.wait()
    raise AssertionError(f"not ended within {ROUNDS} rounds")


@pytest.fixture
def place(reachable_path: Path, ordinary_user: User) -> Path:
    """Return a directory that agents may write."""
    os.chown(reachable_path, ordinary_user.uid, ordinary_user.gid)
    return reachable_path


async def test_memory_beyond_its_ceiling_is_an_oom_that_names_both_figures(
    opened: OpenStore, ordinary_user: User, place: Path
) -> None:
    async with opened() as store:
        greedy, modest = [live_agent(store, await submit(store, f"t{n}"), ordinary_user) for n in range(2)]
        dog = watch(greedy, modest)
        limits = Limits(memory_mb=64)
        async with modest.run.tree.open(spec_of(place, limits, "python3", "-c", HOLD, "1")) as sibling:
            await read_until(sibling, b"up")
            ended = await until_ended(dog, greedy, spec_of(place, limits, "python3", "-c", HOLD, "96"))
            await dog.round()
            assert modest.run.tree.sandboxes()[0].excess is None
            assert sibling.processes()
        assert ended.oom_killed
        assert "MB of memory, and 64 are allowed" in str(ended)


async def test_files_in_memory_beyond_the_ceiling_are_an_oom(
    opened: OpenStore, ordinary_user: User, place: Path
) -> None:
    """None of the places holds too much; all of them together do."""
    script = "for d in /tmp $HOME /dev/shm; do head -c 30000000 /dev/zero > $d/x; done; echo up; sleep 1000"
    backend = BubblewrapBackend(ordinary_user)
    async with opened() as store:
        live = live_agent(store, await submit(store, "t"), ordinary_user, backend)
        spec = spec_of(place, Limits(memory_mb=64), "sh", "-c", script)
        ended = await until_ended(watch(live), live, spec)
        assert ended.oom_killed
        assert "MB of memory, and 64 are allowed" in str(ended)


@pytest.mark.parametrize(
    "case",
    [
        (Limits(pids=3), "for i in 1 2 3 4 5; do sleep 1000 & done; echo up; wait", "3 are allowed"),
        (Limits(disk_mb=1), "head -c 3000000 /dev/urandom > big; echo up; sleep 1000", "MB of disk"),
        (
            Limits(disk_mb=10),
            f"d=; for i in $(seq {MAX_DEPTH + 9}); do d=${{d}}d/; done; mkdir -p $d; echo up; sleep 1000",
            "directories inside one another",
        ),
    ],
    ids=["processes", "disk", "depth"],
)
async def test_disk_and_processes_beyond_their_ceiling_are_no_oom(
    opened: OpenStore, ordinary_user: User, place: Path, case: tuple[Limits, str, str]
) -> None:
    limits, script, said = case
    async with opened() as store:
        live = live_agent(store, await submit(store, "t"), ordinary_user)
        ended = await until_ended(watch(live), live, spec_of(place, limits, "sh", "-c", script))
        assert not ended.oom_killed
        assert said in str(ended)
        assert not live.run.tree.processes()


async def test_a_large_tree_is_surveyed_over_many_rounds_and_let_go_of_with_its_agent(
    opened: OpenStore, ordinary_user: User, place: Path
) -> None:
    script = "for i in 1 2 3 4; do mkdir $i; (cd $i; seq 1000 | xargs touch); done; echo up; cat"
    async with opened() as store:
        live = live_agent(store, await submit(store, "t"), ordinary_user)
        dog = watch(live)
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
        async with live.run.tree.open(spec_of(place, Limits(disk_mb=100), "sh", "-c", script)) as sandbox:
            await read_until(sandbox, b"up")
            for _ in range(5):
                await dog.round()
            assert live.run.tree.sandboxes()[0].excess is None
        await dog.round()
        assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208 - a count


async def test_huge_trees_do_not_hide_what_another_agent_writes(
    opened: OpenStore, ordinary_user: User, place: Path
) -> None:
    huge = "mkdir h; cd h; seq 3000 | xargs touch; echo up; cat"
    async with opened() as store:
        large, other = [live_agent(store, await submit(store, f"t{n}"), ordinary_user) for n in range(2)]
        for name in ("large", "other"):
            (place / name).mkdir()
            os.chown(place / name, ordinary_user.uid, ordinary_user.gid)
        dog, limits = watch(large, other), Limits(disk_mb=1)
        async with large.run.tree.open(
            spec_of(place / "large", Limits(disk_mb=100), "sh", "-c", huge)
        ) as box:
            await read_until(box, b"up")
            await dog.round()
            script = "head -c 3000000 /dev/zero > big; echo up; sleep 1000"
            ended = await until_ended(dog, other, spec_of(place / "other", limits, "sh", "-c", script))
            assert "MB of disk" in str(ended)
            assert large.run.tree.sandboxes()[0].excess is None
        await dog.round()  # lets go of what is gone


async def test_what_the_kernel_enforces_is_not_looked_at(
    opened: OpenStore, ordinary_user: User, place: Path
) -> None:
    async with opened() as store:
        live = live_agent(store, await submit(store, "t"), ordinary_user)
        live.run.tree.watched = frozenset()
        spec = spec_of(place, Limits(memory_mb=1, pids=1, disk_mb=1), "python3", "-c", HOLD, "32")
        async with live.run.tree.open(spec) as sandbox:
            await read_until(sandbox, b"up")
            for _ in range(3):
                await watch(live).round()
            assert live.run.tree.sandboxes()[0].excess is None
            assert sandbox.processes()


async def run_two(
    store: Store, user: User, place: Path, left_mb: float, mb: tuple[int, int]
) -> tuple[Live, Live, list[int]]:
    """Let two agents hold memory on a host that has so much left, for a round; return who still lives."""
    small, large = [live_agent(store, await submit(store, f"t{n}"), user) for n in range(2)]
    dog = watch(small, large, left={"memory": left_mb})

    def hold(amount: int) -> Spec:
        return spec_of(place, Limits(), "python3", "-c", HOLD, str(amount))

    async with small.run.tree.open(hold(mb[0])) as one, large.run.tree.open(hold(mb[1])) as other:
        await read_until(one, b"up")
        await read_until(other, b"up")
        await dog.round()
        if large.failure is not None:
            await other.wait()
        alive = [number for number, box in enumerate((one, other)) if box.processes()]
    return small, large, alive


async def test_below_the_hard_mark_the_largest_agent_fails_and_may_try_again(
    opened: OpenStore, ordinary_user: User, place: Path
) -> None:
    async with opened() as store:
        small, large, alive = await run_two(store, ordinary_user, place, HARD_MARK_MB - 1, (1, 100))
        assert alive == [0]
        assert small.failure is None
        assert large.failure is not None
        assert (large.failure.reason, large.failure.retryable) == (Reason.OOM, True)
        assert large.scope.cancel_called
        failure = large.failure
        large.cut(Killed(Reason.OPERATOR, "somebody"))
        assert isinstance(large.end, Killed), "a kill overtakes it"
        large.fail(failure)
        assert isinstance(large.end, Killed)


@pytest.mark.parametrize(("left_mb", "mb"), [(HARD_MARK_MB, (1, 100)), (1.0, (1, 2))])
async def test_nobody_is_ended_above_the_mark_nor_where_it_would_not_help(
    opened: OpenStore, ordinary_user: User, place: Path, left_mb: float, mb: tuple[int, int]
) -> None:
    async with opened() as store:
        small, large, alive = await run_two(store, ordinary_user, place, left_mb, mb)
        assert alive == [0, 1]
        assert (small.failure, large.failure) == (None, None)


async def test_it_looks_again_and_again_and_lets_go_when_it_is_ended(
    opened: OpenStore, ordinary_user: User, place: Path
) -> None:
    async with opened() as store, trio.open_nursery() as nursery:
        live = live_agent(store, await submit(store, "t"), ordinary_user)
        nursery.start_soon(watch(live).run)
        spec = spec_of(place, Limits(memory_mb=16), "python3", "-c", HOLD, "48")
        with trio.fail_after(60):
            async with live.run.tree.open(spec) as sandbox:
                ended = await sandbox.wait()
        assert ended.oom_killed
        nursery.cancel_scope.cancel()
