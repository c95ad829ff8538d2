"""Landing: the lease, doing it twice, a remote that refuses, and a kill at any moment."""

from __future__ import annotations

import pytest
import trio

from orchestrator.errors import BranchBlocked, GitFailed, LeaseLost, PushRejected, RepositoryUnreachable
from orchestrator.repo.landing import land
from orchestrator.repo.worktree import Worktree
from tests.kit.remote import branches, git, hook
from tests.repo.stage import Stage, intent
from tests.repo.test_mirrors import git_processes

REF = "refs/heads/agent/T-1"


async def sealed_commit(stage: Stage, worktree: Worktree, text: str = "x") -> str:
    """Return a commit of record."""
    await stage.must(worktree, f"echo {text} > work.txt")
    candidate = await stage.collect(worktree)
    assert candidate is not None
    return (await worktree.quarantine.seal(candidate, "Work")).commit


async def test_a_branch_that_somebody_else_made_or_moved_is_left_alone(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        commit = await sealed_commit(stage, worktree)
        theirs = stage.advance(branch="agent/T-1")
        for old in ("", worktree.base.commit):
            with pytest.raises(LeaseLost, match="moved by somebody else"):
                await land(worktree.base, worktree.quarantine, intent(stage.url, REF, commit, old))
        assert branches(stage.bare)["agent/T-1"] == theirs
        await land(worktree.base, worktree.quarantine, intent(stage.url, REF, commit, theirs))
        assert branches(stage.bare)["agent/T-1"] == commit


async def test_a_push_that_was_already_done_is_success(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        commit = await sealed_commit(stage, worktree)
        for old in ("", "", worktree.base.commit):
            await land(worktree.base, worktree.quarantine, intent(stage.url, REF, commit, old))
        assert await stage.repositories.observe(stage.url, REF) == commit
        assert await stage.repositories.observe(stage.url, "refs/heads/agent/none") is None


async def test_a_remote_that_refuses_is_quoted_without_its_escapes(stage: Stage) -> None:
    hook(stage.bare, "update", "printf 'no \\033[31mway\\n' >&2; exit 1")
    async with stage.open_worktree() as worktree:
        commit = await sealed_commit(stage, worktree)
        with pytest.raises(PushRejected, match="hook declined") as refused:
            await land(worktree.base, worktree.quarantine, intent(stage.url, REF, commit))
        assert not isinstance(refused.value, LeaseLost)
        assert refused.value.detail.isprintable()
    assert "agent/T-1" not in branches(stage.bare)


@pytest.mark.parametrize("there", ["agent/T-1/deeper", "agent"])
@pytest.mark.parametrize("packed", [False, True])
async def test_a_branch_whose_name_another_takes_up_is_told_by_that_name(
    stage: Stage, there: str, packed: bool
) -> None:
    stage.advance(branch=there)
    if packed:
        git("pack-refs", "--all", cwd=stage.bare)
    async with stage.open_worktree() as worktree:
        commit = await sealed_commit(stage, worktree)
        with pytest.raises(BranchBlocked, match=f"has refs/heads/{there}, beside which") as refused:
            await land(worktree.base, worktree.quarantine, intent(stage.url, REF, commit))
    assert (refused.value.reason, refused.value.retryable) == ("conflict", False)


async def test_a_remote_that_is_gone_is_unreachable(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        commit = await sealed_commit(stage, worktree)
        stage.bare.rename(stage.bare.with_name("gone"))
        with pytest.raises(RepositoryUnreachable):
            await land(worktree.base, worktree.quarantine, intent(stage.url, REF, commit))
        stage.bare.with_name("gone").rename(stage.bare)


@pytest.mark.parametrize(
    ("ref", "new", "old"),
    [
        ("--force", None, ""),
        ("refs/heads/-x", None, ""),
        ("refs/tags/x", None, ""),
        ("refs/heads/a b", None, ""),
        (REF, "HEAD", ""),
        (REF, None, "main"),
    ],
)
async def test_a_push_of_anything_but_commits_to_branches_is_refused(
    stage: Stage, ref: str, new: str | None, old: str
) -> None:
    async with stage.open_worktree() as worktree:
        commit = await sealed_commit(stage, worktree)
        with pytest.raises((PushRejected, GitFailed)):
            await land(worktree.base, worktree.quarantine, intent(stage.url, ref, new or commit, old))


@pytest.mark.slow
@pytest.mark.parametrize("old_exists", [False, True])
async def test_kill_during_landing_leaves_remote_unchanged_or_wholly_updated(
    stage: Stage, old_exists: bool
) -> None:
    async with stage.open_worktree() as worktree:
        for moment in range(20):
            ref = f"refs/heads/agent/K-{moment if not old_exists else 0}"
            commit = await sealed_commit(stage, worktree, f"text-{moment}")
            old = await stage.repositories.observe(stage.url, ref)
            push = intent(stage.url, ref, commit, old or "")
            with trio.move_on_after(0.003 * moment):
                await land(worktree.base, worktree.quarantine, push)
            assert git_processes() == []
            now = await stage.repositories.observe(stage.url, ref)
            assert now in {old, commit}
            await land(worktree.base, worktree.quarantine, push)
            assert await stage.repositories.observe(stage.url, ref) == commit
        git("fsck", "--full", cwd=stage.bare)
