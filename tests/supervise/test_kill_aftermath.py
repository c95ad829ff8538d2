"""What a killed agent leaves is tidied up after the answer, by the next start where there was no time."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from orchestrator.core.events import AgentCleanup
from orchestrator.core.model import AgentStatus
from orchestrator.core.recovery import directory_of
from sandbox.base import User
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.process import run_child
from sandbox.procfs import carries, children
from tests.kit.plane import Plane, open_plane
from tests.kit.remote import git, make_remote
from tests.kit.until import seen

ROOT = Path(__file__).parents[2]
WORK = "for i in 1 2 3 4; do echo $i > $i; done"


async def cut_off(root: Path, user: User, script: str, moment: str) -> str:
    """Let a supervisor die at that moment after a kill; return the agent, whose room is still there."""
    make_remote(root)
    done = await run_child(
        (
            sys.executable,
            "-m",
            "tests.supervise.cut_off",
            str(root),
            str(user.uid),
            str(user.gid),
            script,
            moment,
        ),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join([str(ROOT), *filter(None, sys.path)])},
        deadline_s=90,
    )
    assert done.exit.signal == 9, done.stderr.decode()[-4000:]
    agent = done.stdout.decode()
    assert (room(root, agent) / "upper").is_dir()
    return agent


def room(root: Path, agent: str) -> Path:
    """Return where the agent's files are."""
    return root / "home" / "workspaces" / directory_of(agent, "cut-off")


async def next_start(root: Path, user: User, agent: str) -> AgentCleanup:
    """Start again; return what was told of the cleaning up, after which nothing is left."""
    with trio.fail_after(60):
        async with open_plane(root / "home", user=user, roots=root, backend=BubblewrapBackend(user)) as plane:
            assert (await plane.over(agent)).status is AgentStatus.KILLED
            assert plane.repositories.directories() == []
            assert not room(root, agent).exists()
            [cleanup] = await plane.store.events_after(0, types=["agent.cleanup"])
            assert isinstance(cleanup.event, AgentCleanup)
            assert not cleanup.event.left_behind
            return cleanup.event


def salvaged(root: Path, agent: str) -> set[str]:
    """Return the files of the salvaged commit."""
    [mirror] = (path for path in (root / "home" / "mirrors").iterdir() if path.is_dir())
    return set(git("ls-tree", "--name-only", f"refs/salvage/{agent}", cwd=mirror).split())


async def test_a_kill_is_answered_while_the_disk_keeps_the_files(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote, root = make_remote(reachable_path), reachable_path
    with trio.fail_after(60):
        async with open_plane(
            root / "home", user=ordinary_user, roots=root, backend=BubblewrapBackend(ordinary_user)
        ) as plane:
            agent = await plane.submit(remote, "exec sleep 1000", "cut-off")

            def launchers() -> list[int]:
                return [pid for pid in children(os.getpid()) if carries(pid, agent.encode())]

            await seen(lambda: (run := plane.supervisor.live(agent)) and run.run.tree.processes(), "its work")
            [launcher] = launchers()
            os.kill(launcher, signal.SIGSTOP)  # as if the disk kept it from unmounting
            assert (await plane.supervisor.kill(agent, actor="tester")).remaining == 0
            assert room(root, agent).exists()
            prompts = root / "home" / "scratch"
            assert [path.name for path in prompts.iterdir()] == [f"{agent}.prompt-1.md"], (
                "nor for its removal"
            )
            os.kill(launcher, signal.SIGCONT)
            assert (await plane.over(agent)).status is AgentStatus.KILLED
            assert not room(root, agent).exists()
            assert not list(prompts.iterdir())
            assert not launchers()


async def test_who_looks_for_himself_at_the_answer_finds_not_even_a_launcher(
    reachable_path: Path, ordinary_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, root = make_remote(reachable_path), reachable_path
    monkeypatch.setattr("sandbox.departure.LINGER_S", 30.0)  # a busy host is no slow disk
    with trio.fail_after(60):
        async with open_plane(
            root / "home", user=ordinary_user, roots=root, backend=BubblewrapBackend(ordinary_user)
        ) as plane:
            agent = await plane.submit(remote, "exec sleep 1000", "cut-off")
            await seen(lambda: (run := plane.supervisor.live(agent)) and run.run.tree.processes(), "its work")
            [launcher] = [pid for pid in children(os.getpid()) if carries(pid, agent.encode())]
            os.kill(launcher, signal.SIGSTOP)

            async def go_on() -> None:
                await seen(lambda: killed(plane), "the end is in the journal")
                os.kill(launcher, signal.SIGCONT)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(go_on)
                await plane.supervisor.kill(agent, actor="tester")
                assert launcher not in children(os.getpid())


def killed(plane: Plane) -> bool:
    """Return whether no agent lives any more."""
    return not any(agent.live for agent in plane.store.state.agents.values())


async def test_a_crash_after_the_answer_leaves_the_removal_to_the_next_start(
    reachable_path: Path, ordinary_user: User
) -> None:
    agent = await cut_off(reachable_path, ordinary_user, "true", "answer")
    assert (await next_start(reachable_path, ordinary_user, agent)).salvage is None


async def test_a_crash_after_the_answer_leaves_the_salvage_to_the_next_start(
    reachable_path: Path, ordinary_user: User
) -> None:
    agent = await cut_off(reachable_path, ordinary_user, WORK, "answer")
    assert (await next_start(reachable_path, ordinary_user, agent)).salvage == f"refs/salvage/{agent}"
    assert salvaged(reachable_path, agent) >= {"1", "2", "3", "4"}


async def test_a_crash_amid_the_removal_does_not_replace_the_salvage_by_what_is_left(
    reachable_path: Path, ordinary_user: User
) -> None:
    agent = await cut_off(reachable_path, ordinary_user, WORK, "removal")
    for name in "12":  # as far as it had come
        (room(reachable_path, agent) / "upper" / name).unlink()
    assert (await next_start(reachable_path, ordinary_user, agent)).salvage == f"refs/salvage/{agent}"
    assert salvaged(reachable_path, agent) >= {"1", "2", "3", "4"}


async def test_a_crash_amid_the_removal_of_what_was_not_worth_keeping_is_no_trouble(
    reachable_path: Path, ordinary_user: User
) -> None:
    agent = await cut_off(reachable_path, ordinary_user, "true", "removal")
    assert (await next_start(reachable_path, ordinary_user, agent)).salvage is None
