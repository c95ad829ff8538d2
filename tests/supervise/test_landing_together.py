"""Many who land in one place: nothing of anybody is lost, nothing forced, and nobody waits for an agent."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from orchestrator.core import events as e
from orchestrator.core.commands import AssignAgent
from orchestrator.core.model import Agent, Phase, Reason
from orchestrator.journal.store import open_store
from sandbox.base import User
from tests.kit.plane import GATED, Plane, open_plane
from tests.kit.remote import branches, count_pushes, git, hook, make_remote, pushes
from tests.kit.until import seen

LOG = {"log.txt": "one\ntwo\nthree\n"}
#: Keeps both sides of every conflict, as a good agent would, or adds its line at first.
ADDS = (
    "if grep -q '^<<<<<<< ' log.txt; then sed -Ei '/^(<{7}|>{7}) |^={7}$/d' log.txt; "
    "else echo $ORCHESTRATOR_TASK_ID >> log.txt; fi"
)
LANDING = {"landing": {"branch": "together"}}


@asynccontextmanager
async def planed(
    root: Path,
    user: User,
    within_s: float = 120,
    **more: Any,  # noqa: ANN401 - as `open_plane` takes them
) -> AsyncIterator[Plane]:
    """Give a plane with ten slots."""
    with trio.fail_after(within_s):
        async with open_plane(root / "home", user=user, roots=root, slots=10, **more) as plane:
            yield plane


async def told(plane: Plane, kind: str, agent: str | None = None) -> list[e.Event]:
    """Return the events of a kind, of one agent or of all."""
    found = await plane.store.events_after(0, types=[kind], limit=10_000)
    return [each.event for each in found if agent in {None, getattr(each.event, "agent_id", None)}]


def store_at(root: Path) -> tuple[Path, Path]:
    """Return where the journal of `planed` is."""
    return root / "home", root / "home" / "orchestrator.db"


def is_linear(remote: Path, branch: str) -> bool:
    """Return whether no commit of a branch has two parents."""
    return not git("rev-list", "--min-parents=2", branch, cwd=remote).strip()


def nothing_was_forced(remote: Path) -> bool:
    """Return whether every move of a branch kept what was there."""
    for push in pushes(remote):
        if set(push.old) != {"0"}:
            git("merge-base", "--is-ancestor", push.old, push.new, cwd=remote)
    return True


async def test_ten_agents_on_one_file_and_one_branch_lose_nothing(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=LOG)
    git("branch", "together", "main", cwd=remote)
    count_pushes(remote)
    async with planed(reachable_path, ordinary_user) as plane:
        agents = {f"t{n}": await plane.submit(remote, ADDS, f"t{n}", **LANDING) for n in range(10)}
        ended: dict[str, Agent] = {task: await plane.over(agent) for task, agent in agents.items()}
        landed = {task for task, agent in ended.items() if agent.reason is Reason.DONE}
        conflicts = await told(plane, "conflict.detected")
    lines = git("show", "together:log.txt", cwd=remote).split()
    assert sorted(lines) == sorted(["one", "two", "three", *landed]), lines
    assert {agent.reason for agent in ended.values()} <= {Reason.DONE, Reason.CONFLICT}
    assert len(landed) >= 6
    assert all(isinstance(event, e.ConflictDetected) and event.files for event in conflicts)
    assert conflicts
    assert is_linear(remote, "together")
    assert nothing_was_forced(remote)
    assert len(git("rev-list", "together", cwd=remote).split()) == 1 + len(landed)


async def test_agents_on_different_files_of_one_branch_all_land_without_a_further_turn(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=LOG)
    git("branch", "together", "main", cwd=remote)
    async with planed(reachable_path, ordinary_user) as plane:
        agents = [await plane.submit(remote, f"echo {n} > f{n}", f"t{n}", **LANDING) for n in range(4)]
        for agent in agents:
            end = await plane.over(agent)
            assert (end.reason, end.turn) == (Reason.DONE, 1), end
    assert is_linear(remote, "together")
    assert len(git("ls-tree", "--name-only", "together", cwd=remote).split()) == 5


async def test_a_base_that_moved_on_is_landed_on_after_the_gates_have_run_there(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=GATED)
    async with planed(reachable_path, ordinary_user) as plane:
        script = "echo 2 > mine; while [ ! -e value2 ]; do sleep 0.05; done"
        agent = await plane.submit(remote, script, "t", gated=True)
        await seen(lambda: list(reachable_path.glob("home/workspaces/*/*/mine")), "its work")
        main = others_commit(remote, "theirs", "x")
        let_go(reachable_path, "mine", "value2")
        end = await plane.over(agent)
        verdicts = end.verdicts
    assert end.reason is Reason.DONE, end
    assert git("rev-parse", "agent/t^", cwd=remote).strip() == main == end.base
    assert [verdict.commit == end.commit for verdict in verdicts] == [False, True]


async def test_a_change_that_its_new_base_breaks_goes_back_to_the_agent_there(
    reachable_path: Path, ordinary_user: User
) -> None:
    test = "echo 1..1; [ ! -e a ] || [ ! -e b ] && echo ok 1 || exit 1"
    gate = f"[gates.tests]\ncommand = ['sh', '-c', '{test}']\n"
    remote = make_remote(reachable_path, files={"x": "1\n", "orchestrator.toml": gate})
    async with planed(reachable_path, ordinary_user) as plane:
        first = "echo 2 > a; while [ ! -e go ]; do sleep 0.05; done; rm go"
        script = f"if [ -e b ]; then rm a; echo 2 > c; else {first}; fi"
        agent = await plane.submit(remote, script, "t", gated=True)
        await seen(lambda: list(reachable_path.glob("home/workspaces/*/*/a")), "its work")
        main = others_commit(remote, "b", "x")
        let_go(reachable_path, "a", "go")
        end = await plane.over(agent)
    assert (end.reason, end.turn, end.conflicts) == (Reason.DONE, 2, 1), end
    assert git("rev-parse", "agent/t^", cwd=remote).strip() == main
    assert git("ls-tree", "--name-only", "agent/t", cwd=remote).split() == [
        "b",
        "c",
        "orchestrator.toml",
        "x",
    ]


async def test_an_agent_that_never_resolves_fails_with_the_conflict_and_its_work_is_kept(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=LOG)
    theirs = others_commit(remote, "log.txt", "theirs\n", branch="together")
    async with planed(reachable_path, ordinary_user) as plane:
        agent = await plane.submit(remote, "echo $ORCHESTRATOR_TURN > log.txt; exec true", "t", **LANDING)
        end = await plane.over(agent)
        assert end.reason is Reason.DONE  # its second turn wrote over both sides: that is its to decide
        leaves_it = "[ -e x ] || { echo x > x; echo s > log.txt; }"
        stubborn = await plane.submit(remote, leaves_it, "s", **LANDING)
        end = await plane.over(stubborn)
        cleanup = await told(plane, "agent.cleanup", stubborn)
    assert end.reason is Reason.POLICY_VIOLATION, end
    assert "conflict" in (end.error or "")
    assert isinstance(cleanup[0], e.AgentCleanup)
    assert cleanup[0].salvage
    assert git("merge-base", "--is-ancestor", theirs, "together", cwd=remote) == ""


async def test_others_who_push_all_the_time_lose_nothing_and_are_not_waited_for_for_ever(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=LOG)
    git("branch", "together", "main", cwd=remote)
    count_pushes(remote)
    stop = threading.Event()
    made: list[str] = []

    def race() -> None:
        while not stop.is_set() and len(made) < 60:
            made.append(others_commit(remote, f"theirs{len(made)}", "x", branch="together"))

    async with planed(reachable_path, ordinary_user) as plane, trio.open_nursery() as beside:
        beside.start_soon(trio.to_thread.run_sync, race)
        agents = [await plane.submit(remote, f"echo {n} > f{n}", f"t{n}", **LANDING) for n in range(2)]
        ended = [await plane.over(agent) for agent in agents]
        stop.set()
    assert {agent.reason for agent in ended} <= {Reason.DONE, Reason.CONFLICT}
    landed = [n for n, agent in enumerate(ended) if agent.reason is Reason.DONE]
    files = git("ls-tree", "--name-only", "together", cwd=remote).split()
    assert {f"f{n}" for n in landed} == {name for name in files if name[1:].isdigit()}
    assert {f"theirs{n}" for n in range(len(made))} <= set(files)
    assert is_linear(remote, "together")
    assert nothing_was_forced(remote)


async def test_a_push_that_lost_its_lease_is_journaled_and_brought_on(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=LOG)
    theirs = others_commit(remote, "theirs", "x", branch="ahead")
    git("branch", "together", "main", cwd=remote)
    # Somebody is quicker by a hair: between the remote's look at the lease and its move of the branch.
    quick = f"[ -e {reachable_path}/once ] || {{ touch {reachable_path}/once; git update-ref $1 {theirs}; }}"
    hook(remote, "update", quick)
    async with planed(reachable_path, ordinary_user) as plane:
        end = await plane.over(await plane.submit(remote, "echo 1 > mine", "t", **LANDING))
        rejected = await told(plane, "push.rejected")
        intents = [event for event in await told(plane, "agent.phase") if isinstance(event, e.AgentPhase)]
    assert end.reason is Reason.DONE, end
    assert git("rev-parse", "together^", cwd=remote).strip() == theirs
    assert len(rejected) == 1
    pushes = [event.push for event in intents if event.push is not None]
    assert [push.old for push in pushes] == [branches(remote)["main"], theirs]


async def test_where_main_is_not_protected_agents_land_on_it_one_after_the_other(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=LOG)
    count_pushes(remote)
    async with planed(reachable_path, ordinary_user) as plane:
        on_main = {"landing": {"branch": "main"}}
        agents = [await plane.submit(remote, f"echo {n} > f{n}", f"t{n}", **on_main) for n in range(3)]
        assert {(await plane.over(agent)).reason for agent in agents} == {Reason.DONE}
    assert len(git("ls-tree", "--name-only", "main", cwd=remote).split()) == 4
    assert is_linear(remote, "main")
    assert nothing_was_forced(remote)


async def test_an_agent_that_is_cut_amid_a_conflict_goes_on_with_it_on_the_new_base(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=LOG)
    theirs = others_commit(remote, "log.txt", "theirs\n", branch="together")
    first, cut = "echo mine > log.txt", "{ touch there; sleep 1000; }"
    script = f'[ "$ORCHESTRATOR_TURN" = 1 ] && {first} || {{ [ -e there ] || {cut}; rm there; {ADDS}; }}'
    async with planed(reachable_path, ordinary_user) as plane:
        agent = await plane.submit(remote, script, "t", **LANDING)
        await seen(lambda: list(reachable_path.glob("home/workspaces/*/*/there")), "its second turn")
    async with planed(reachable_path, ordinary_user) as plane:
        end = await plane.over(agent)
    assert (end.reason, end.base, end.conflicts) == (Reason.DONE, theirs, 1), end
    assert git("rev-parse", "together^", cwd=remote).strip() == theirs
    assert git("show", "together:log.txt", cwd=remote) == "theirs\nmine\n"


async def test_what_was_taken_off_the_base_meanwhile_does_not_come_back_with_the_work(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=LOG)
    before = branches(remote)["main"]
    taken_off = others_commit(remote, "leaked", "a secret")
    async with planed(reachable_path, ordinary_user) as plane:
        script = "touch mine; while [ ! -e go ]; do sleep 0.05; done; rm go; echo 1 > mine"
        agent = await plane.submit(remote, script, "t")
        await seen(lambda: list(reachable_path.glob("home/workspaces/*/*/mine")), "its work")
        git("update-ref", "refs/heads/main", before, taken_off, cwd=remote)
        let_go(reachable_path, "mine", "go")
        end = await plane.over(agent)
    assert (end.reason, end.base) == (Reason.DONE, before), end
    assert taken_off not in git("rev-list", "--all", cwd=remote)


@pytest.mark.parametrize("given_back", [False, True])
async def test_an_agent_that_is_cut_before_its_files_are_on_its_new_base_keeps_its_work(
    reachable_path: Path, ordinary_user: User, given_back: bool
) -> None:
    remote = make_remote(reachable_path, files=LOG)
    hook(remote, "update", f"touch {reachable_path}/pushing; sleep 2; exit 1")
    async with planed(reachable_path, ordinary_user) as plane:
        first = "touch mine; while [ ! -e go ]; do sleep 0.05; done; rm go"
        script = f"[ -e {reachable_path}/pushing ] && echo anew > mine || {{ {first}; echo 1 > mine; }}"
        agent = await plane.submit(remote, script, "t")
        await seen(lambda: list(reachable_path.glob("home/workspaces/*/*/mine")), "its work")
        theirs = others_commit(remote, "theirs", "x")
        let_go(reachable_path, "mine", "go")
        await seen((reachable_path / "pushing").exists, "its push")
    (remote / "hooks/update").unlink()
    if given_back:  # as if the cut had come between the word to the agent and the move of its files
        async with open_store(*store_at(reachable_path)) as store, trio.open_nursery() as services:
            await services.start(store.run)
            [cut] = store.state.agents.values()
            ids = {"agent_id": cut.id, "task_id": cut.task_id}
            back = {"rejected": 1, "complaints": ("conflict: x",), "conflicts": 1, "base": theirs}
            await store.submit(AssignAgent(cut.id))
            await store.record(e.AgentPhase(**ids, phase=Phase.WORKING, **back))
            services.cancel_scope.cancel()
    async with planed(reachable_path, ordinary_user) as plane:
        end = await plane.over(agent)
        turns = await told(plane, "agent.turn", agent)
    assert (end.reason, end.base, len(turns)) == (Reason.DONE, theirs, 1), end
    assert git("show", "agent/t:mine", cwd=remote) == "1\n"


@pytest.mark.parametrize("explicit", [False, True])
async def test_a_strangers_branch_is_added_to_only_where_it_was_asked_for_by_name(
    reachable_path: Path, ordinary_user: User, explicit: bool
) -> None:
    remote = make_remote(reachable_path, files=LOG)
    theirs = others_commit(remote, "theirs", "x", branch="agent/t")
    async with planed(reachable_path, ordinary_user) as plane:
        options = {"landing": {"branch": "agent/t"}} if explicit else {}
        end = await plane.over(await plane.submit(remote, "echo 1 > mine", "t", **options))
    tip = branches(remote)["agent/t"]
    if explicit:
        assert (end.reason, git("rev-parse", f"{tip}^", cwd=remote).strip()) == (Reason.DONE, theirs)
    else:
        assert (end.reason, tip) == (Reason.CONFLICT, theirs)


def let_go(root: Path, beside: str, name: str) -> None:
    """Write the file that an agent waits for, beside one that it has written."""
    for place in root.glob(f"home/workspaces/*/*/{beside}"):
        place.with_name(name).write_text("go")


def others_commit(remote: Path, name: str, text: str, branch: str = "main") -> str:
    """Let somebody else commit a file onto a branch of the remote, made where it is missing, by lease."""
    while True:
        there = branches(remote)
        base = there.get(branch, there["main"])
        index = remote / f"index-{threading.get_ident()}"
        index.unlink(missing_ok=True)
        env = {**os.environ, "GIT_INDEX_FILE": str(index)}

        def plumb(*args: str, env: dict[str, str] = env) -> str:
            done = subprocess.run(
                ["git", "-c", "user.name=x", "-c", "user.email=x@x", *args],
                cwd=remote, env=env, input=text, capture_output=True, text=True, check=True,
            )  # fmt: skip
            return done.stdout.strip()

        blob = plumb("hash-object", "-w", "--stdin")
        plumb("read-tree", base)
        plumb("update-index", "--add", "--cacheinfo", f"100644,{blob},{name}")
        commit = plumb("commit-tree", plumb("write-tree"), "-p", base, "-m", "theirs")
        try:
            plumb("update-ref", f"refs/heads/{branch}", commit, there.get(branch, "0" * 40))
        except subprocess.CalledProcessError:  # somebody else was quicker
            continue
        return commit
