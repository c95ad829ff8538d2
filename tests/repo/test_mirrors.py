"""The mirror: one fetch for many, what a killed git leaves, and remotes that are not there or not ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from orchestrator.errors import BranchMissing, RepositoryError, RepositoryUnreachable, UrlRefused
from orchestrator.repo.landing import land
from orchestrator.repo.worktree import Base
from sandbox.base import User
from tests.kit.remote import git, make_remote
from tests.repo.stage import Stage, intent


async def test_fifty_agents_of_one_commit_share_one_mirror(stage: Stage) -> None:
    bases: list[Base] = []

    async def ask() -> None:
        bases.append(await stage.repositories.resolve(stage.url, "main"))

    async with trio.open_nursery() as askers:
        for _ in range(50):
            askers.start_soon(ask)
    assert {base.commit for base in bases} == {stage.main}
    assert len({id(base.mirror) for base in bases}) == 1


async def test_a_moved_branch_is_seen_and_a_missing_one_named(stage: Stage) -> None:
    first = await stage.repositories.resolve(stage.url, "main")
    moved = stage.advance()
    second = await stage.repositories.resolve(stage.url, "main")
    assert (first.commit != moved, second.commit) == (True, moved)
    rewritten = stage.advance("rewritten\n")
    assert (await stage.repositories.resolve(stage.url, "main")).commit == rewritten
    with pytest.raises(BranchMissing, match="has no branch nope"):
        await stage.repositories.resolve(stage.url, "nope")
    for branch in ("topic", "topic/deeper", "--upload-pack=x"):
        with pytest.raises(BranchMissing):
            await stage.repositories.resolve(stage.url, branch)


async def test_a_branch_below_the_name_of_one_that_has_gone_is_found(stage: Stage) -> None:
    stage.advance(branch="topic")
    await stage.repositories.resolve(stage.url, "topic")
    git("branch", "-D", "topic", cwd=stage.bare)
    with pytest.raises(BranchMissing):
        await stage.repositories.resolve(stage.url, "topic")
    git("branch", "topic/deeper", "main", cwd=stage.bare)
    assert (await stage.repositories.resolve(stage.url, "topic/deeper")).commit == stage.main


async def test_what_is_no_repository_is_told_apart_from_what_does_not_answer(stage: Stage) -> None:
    (stage.remotes / "plain").mkdir()
    with pytest.raises(RepositoryError, match="not a git repository") as refused:
        await stage.repositories.resolve(f"file://{stage.remotes}/plain", "main")
    assert not refused.value.retryable
    git("config", "core.repositoryformatversion", "99", cwd=stage.bare)
    with pytest.raises(RepositoryError):
        await stage.repositories.observe(stage.url, "refs/heads/main")
    with pytest.raises(RepositoryUnreachable):
        await stage.repositories.resolve("https://nowhere.invalid/r", "main")


async def test_a_remote_that_vanished_may_come_back(stage: Stage) -> None:
    away = stage.bare.with_name("away")
    stage.bare.rename(away)
    with pytest.raises(UrlRefused, match="names no directory") as refused:
        await stage.repositories.resolve(stage.url, "main")
    assert (refused.value.retryable, refused.value.status) == (True, 422)
    away.rename(stage.bare)
    await stage.repositories.resolve(stage.url, "main")
    stage.bare.rename(away)
    stage.bare.mkdir()  # as where a file system is not mounted
    with pytest.raises(RepositoryUnreachable, match="git repository") as unreachable:
        await stage.repositories.resolve(stage.url, "main")
    assert unreachable.value.retryable
    with pytest.raises(RepositoryUnreachable):
        await stage.repositories.observe(stage.url, "refs/heads/main")
    stage.bare.rmdir()
    away.rename(stage.bare)
    assert await stage.repositories.observe(stage.url, "refs/heads/main") == stage.main


async def test_litter_of_a_killed_git_is_no_hindrance(stage: Stage) -> None:
    base = await stage.repositories.resolve(stage.url, "main")
    mirror = base.mirror.directory
    kept = next((mirror / "refs" / "base").iterdir())

    def litter() -> None:
        kept.with_name(kept.name + ".lock").touch()
        for name in ("packed-refs.lock", "shallow.lock", "config.lock", "objects/pack/tmp_pack_x"):
            (mirror / name).touch()

    litter()
    assert stage.advance() == (await stage.repositories.resolve(stage.url, "main")).commit
    litter()
    stage.repositories = stage.open_repositories()
    assert stage.advance("again\n") == (await stage.repositories.resolve(stage.url, "main")).commit
    assert not list(mirror.rglob("*.lock"))
    assert not list(mirror.rglob("tmp_*"))


@pytest.mark.parametrize("moment", range(12))
async def test_a_kill_during_a_fetch_hinders_no_later_one(stage: Stage, moment: int) -> None:
    await stage.repositories.resolve(stage.url, "main")
    seed = stage.remotes / "repo.seed"
    (seed / "big").write_bytes(os.urandom(3_000_000))
    moved = stage.advance()
    with trio.move_on_after(0.004 * moment):
        await stage.repositories.resolve(stage.url, "main")
    assert git_processes() == []
    base = await stage.repositories.resolve(stage.url, "main")
    assert base.commit == moved
    git("fsck", "--strict", "--full", cwd=base.mirror.directory)
    assert not list(base.mirror.directory.rglob("tmp_*"))


def give(root: Path, uid: int) -> None:
    """Give a tree to a user."""
    for directory, _, files in os.walk(root):
        for path in (directory, *(os.path.join(directory, name) for name in files)):  # noqa: PTH118 - many
            os.chown(path, uid, uid)


def git_processes() -> list[str]:
    """Return the command lines of our children that are git."""
    pids = "".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split()
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in pids]
    return [line for line in lines if "git" in line]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own a remote as somebody else")
async def test_the_far_side_of_another_users_remote_runs_as_that_user(stage: Stage) -> None:
    give(stage.bare, 1500)
    said = stage.root / "who"
    said.mkdir()
    said.chmod(0o777)
    hook = stage.bare / "hooks" / "post-receive"
    hook.write_text(f"#!/bin/sh\nid -u > {said}/uid\n")
    hook.chmod(0o755)
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "echo x > x")
        candidate = await stage.collect(worktree)
        assert candidate is not None
        sealed = await worktree.quarantine.seal(candidate, "x")
        await land(worktree.base, worktree.quarantine, intent(stage.url, "refs/heads/agent/T", sealed.commit))
    assert await stage.repositories.observe(stage.url, "refs/heads/agent/T") == sealed.commit
    assert (said / "uid").read_text() == "1500\n"
    assert (stage.bare / "refs/heads/agent/T").stat().st_uid == 1500


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
async def test_a_remote_of_another_user_can_be_read(stage: Stage, ordinary_user: User) -> None:
    remote = make_remote(stage.remotes, "second")
    assert (await stage.repositories.resolve(f"file://{remote}", "main")).commit
