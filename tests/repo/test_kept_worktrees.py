"""A worktree that an earlier life left behind: taken up again whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.errors import GitFailed, RoomUnusable
from orchestrator.repo.renewal import BaseGone
from orchestrator.repo.worktree import Worktree
from sandbox.base import Layers, Limits
from sandbox.bubblewrap import BubblewrapBackend
from tests.kit.remote import git
from tests.repo.stage import Stage

NAME = "agent-a1-T-1"
WORK = """
echo precious > p; git add p; git commit -qm 'Add p'
echo later > q; rm README.md; mkdir -m 700 d; echo x > d/x; chmod 000 d
"""


class Crash(Exception):
    """Stands for SIGKILL: nobody tidies up after it."""


async def leave(stage: Stage, script: str = WORK, *, crashed: bool = False, collected: bool = False) -> None:
    """Let an agent work and be cut."""
    try:
        async with stage.open_worktree() as worktree:
            worktree.kept = True
            await stage.must(worktree, script)
            if collected:
                assert await stage.collect(worktree)
            if crashed:
                raise Crash
    except Crash:
        pass
    stage.repositories = stage.open_repositories()  # another process


@asynccontextmanager
async def take_up(stage: Stage) -> AsyncGenerator[Worktree, None]:
    """Open what was left."""
    at: dict[str, str] = {"agent_id": "a1", "task_id": "T-1"}
    base = await stage.repositories.find_kept(**at, backend=stage.backend)
    async with stage.repositories.open_worktree(base, **at, backend=stage.backend, kept=True) as worktree:
        worktree.kept = False
        yield worktree


@pytest.mark.parametrize("crashed", [False, True])
async def test_it_is_as_it_was_left_and_on_the_same_commit(any_stage: Stage, crashed: bool) -> None:
    stage = any_stage
    began = stage.main
    await leave(stage, crashed=crashed, collected=True)
    assert stage.repositories.directories() == [NAME]
    stage.advance()
    shutil.rmtree(stage.home / "checkouts")  # nobody held the shared files meanwhile
    stage.repositories = stage.open_repositories()
    async with take_up(stage) as worktree:
        assert worktree.base.commit == began
        assert await stage.must(worktree, "cat p q; ls; chmod 700 d; cat d/x; git status --short") == (
            "precious\nlater\nd\np\nq\nsrc\nx\n"
        )
        await stage.must(worktree, "echo more > r")
        commit = await stage.deliver(worktree)
    assert git("diff", "--name-status", began, commit, cwd=stage.bare) == (
        "D\tREADME.md\nA\td/x\nA\tp\nA\tq\nA\tr\n"
    )
    assert stage.repositories.directories() == []


async def test_it_can_be_left_and_taken_up_again_and_again(any_stage: Stage) -> None:
    await leave(any_stage, "echo 0 > f")
    for number in range(3):
        async with take_up(any_stage) as worktree:
            worktree.kept = True
            await any_stage.must(worktree, f"cat f; echo {number} >> f; git add f; git commit -qm {number}")
    async with take_up(any_stage) as worktree:
        assert await any_stage.must(worktree, "cat f") == "0\n0\n1\n2\n"


async def test_what_was_made_beside_it_goes(stage: Stage) -> None:
    await leave(stage)
    room = stage.home / "workspaces" / NAME
    for name in ("check-0123", "rescue-4567"):
        (room / name / "upper").mkdir(parents=True)
    (room / "work" / "half").mkdir(parents=True)
    async with take_up(stage) as worktree:
        assert {path.name for path in room.iterdir()} == {"upper", "work", "merged"}
        assert await stage.must(worktree, "cat p") == "precious\n"


async def test_what_was_collected_before_is_known_and_salvaged(any_stage: Stage) -> None:
    await leave(any_stage, "echo precious > p", collected=True, crashed=True)
    async with take_up(any_stage) as worktree:
        await any_stage.must(worktree, "echo more > q")
        ref = await worktree.salvage(limits=Limits(), deadline_s=20)
    assert ref == "refs/salvage/a1"
    patch = await any_stage.repositories.diff(any_stage.url, any_stage.main, ref, max_bytes=10_000)
    assert b"+precious" in patch
    assert b"+more" in patch


def rewrite(stage: Stage, **change: object) -> None:
    """Change what is written about the room."""
    path = stage.home / "quarantine" / NAME / "tenancy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"agent": "a2"}, "is that of agent a2"),
        ({"boot": "another"}, "files may be torn"),
        ({"version": 0}, "by another version"),
        ({"user": 1}, "another kind of sandbox"),
        ({"base": "--upload-pack=x"}, "cannot be had"),
        ({"url": "file:///etc"}, "cannot be had"),
        ({"url": 7}, "makes no sense"),
        ({"more": 7}, "cannot be read"),
    ],
)
async def test_it_is_not_used_where_its_tenancy_does_not_vouch_for_it(
    stage: Stage, change: dict[str, object], why: str
) -> None:
    await leave(stage, crashed=True)
    rewrite(stage, **change)
    with pytest.raises(RoomUnusable, match=why):
        async with take_up(stage):
            pass
    assert stage.repositories.directories() == [NAME], "the caller decides what becomes of it"


async def test_one_whose_commit_is_nowhere_is_not_given_up_either(stage: Stage) -> None:
    await leave(stage, crashed=True)
    rewrite(stage, base="c" * 40)
    with pytest.raises(BaseGone, match="is gone"):
        async with take_up(stage):
            pass
    assert stage.repositories.directories() == [NAME]


@pytest.mark.parametrize("how", ["a link", "a pipe", "a directory", "a socket"])
async def test_what_is_no_file_vouches_for_nothing_and_is_not_waited_for(stage: Stage, how: str) -> None:
    await leave(stage)
    put(stage.home / "quarantine" / NAME / "tenancy.json", how)
    with pytest.raises(RoomUnusable, match="cannot be read"):
        async with take_up(stage):
            pass


@pytest.mark.parametrize("how", ["a link", "a pipe", "a directory"])
async def test_a_prompt_that_cannot_be_read_any_more_is_kept_anew(stage: Stage, how: str) -> None:
    await leave(stage)
    async with take_up(stage) as worktree:
        worktree.keep_prompt("first")
        assert worktree.kept_prompt() == "first"
        put(worktree.quarantine.place / "prompt.md", how)
        assert worktree.kept_prompt() is None
        worktree.keep_prompt("second")
        assert worktree.kept_prompt() == "second"


def put(path: Path, how: str) -> None:
    """Put something else where a file of ours was."""
    path.unlink()
    match how:
        case "a link":
            path.symlink_to("/etc/passwd")
        case "a pipe":
            os.mkfifo(path)
        case "a socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        case _:
            path.mkdir()


async def test_one_that_was_left_in_good_order_outlives_the_host(stage: Stage) -> None:
    await leave(stage)
    tenancy = stage.home / "quarantine" / NAME / "tenancy.json"
    assert json.loads(tenancy.read_text())["boot"] is None
    async with take_up(stage):
        assert json.loads(tenancy.read_text())["boot"]


def spoil(room: Path, how: str) -> None:
    """Let a part of the room be missing, or be something else."""
    shutil.rmtree(room / "upper")
    if how == "a link":
        (room / "upper").symlink_to("/etc")


@pytest.mark.parametrize("how", ["missing", "a link"])
async def test_one_that_is_not_whole_is_not_used(stage: Stage, how: str) -> None:
    await leave(stage)
    spoil(stage.home / "workspaces" / NAME, how)
    with pytest.raises(RoomUnusable):
        async with take_up(stage):
            pass
    await stage.repositories.reap(NAME)
    assert stage.repositories.directories() == []


async def test_one_that_was_cut_off_while_it_was_made_is_not_used(stage: Stage) -> None:
    await leave(stage)
    (stage.home / "quarantine" / NAME / "tenancy.json").unlink()
    with pytest.raises(RoomUnusable, match="never whole"):
        async with take_up(stage):
            pass


async def test_one_for_other_sandboxes_is_not_used(stage: Stage) -> None:
    await leave(stage)
    stage.backend = BubblewrapBackend(stage.backend.user, layered=False)
    stage.repositories = stage.open_repositories()
    with pytest.raises(RoomUnusable, match="another kind of sandbox"):
        async with take_up(stage):
            pass


async def test_the_agents_cannot_write_what_vouches_for_them(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        assert isinstance(worktree.workspace, Layers)
        path = worktree.quarantine.directory / "tenancy.json"
        before = path.read_text()
        script = f"echo x > {path}; rm -f {path}; ls {path}; true"
        await stage.act(worktree, script)
        assert await stage.collect(worktree) is None
        assert path.read_text() == before


async def test_a_salvage_that_is_tried_again_takes_no_more_room(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "head -c 3000000 /dev/urandom > large")
        obstacle = worktree.base.mirror.directory / "refs" / "salvage" / "a1" / "in-the-way"
        obstacle.parent.mkdir(parents=True)
        obstacle.touch()
        taken = []
        for _ in range(3):
            with pytest.raises(GitFailed):
                await worktree.salvage(limits=Limits(), deadline_s=20)
            taken.append(await stage.repositories.measure("a1", "T-1"))
        assert taken[0] > taken[1] + 2_000_000, "what the first try collected the files by is gone"
        assert taken[2] <= taken[1]
        obstacle.unlink()
        obstacle.parent.rmdir()
        assert await worktree.salvage(limits=Limits(), deadline_s=20) == "refs/salvage/a1"
    patch = await stage.repositories.diff(stage.url, stage.main, "refs/salvage/a1", max_bytes=10_000)
    assert b"large" in patch
