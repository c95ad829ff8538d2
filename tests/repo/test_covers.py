"""The `.git` that all who start from a commit share: nobody can change it for another."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.repo.bare import Identity, PrivateGit
from orchestrator.repo.checkouts import Checkouts
from orchestrator.repo.repositories import Repositories
from orchestrator.repo.url import UrlRules
from orchestrator.repo.worktree import Worktree
from sandbox.base import Layers
from tests.kit.remote import git
from tests.repo.stage import Stage

#: What an agent can do to its repository, up to making it useless.
_SPOIL = """
git config user.name Mallory
git config core.fsmonitor /workspace/evil
echo changed > new.txt && git add -A && git commit -qm changed
git branch more && git pack-refs --all && git gc -q
printf '#!/bin/sh\\n' > .git/hooks.sh; mkdir -p .git/hooks .git/info; echo x > .git/info/exclude
echo /elsewhere > .git/objects/info/alternates
: > .git/index
rm -rf .git/refs .git/HEAD
"""


def covers(stage: Stage) -> list[Path]:
    """Return the shared `.git`s of this state directory."""
    return sorted(stage.home.glob("checkouts/*/*/git-*"))


def contents(root: Path) -> dict[str, bytes]:
    """Return every file below a directory, and every directory as nothing."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b"" for path in root.rglob("*")
    }


def cover_of(worktree: Worktree) -> Path | None:
    """Return the shared part of a worktree's `.git`."""
    assert isinstance(worktree.workspace, Layers)
    return worktree.workspace.cover


async def test_agent_that_spoils_its_repository_spoils_nobody_elses(stage: Stage) -> None:
    async with stage.open_worktree("a1", "T-1") as one, stage.open_worktree("a2", "T-2") as two:
        assert cover_of(one) == cover_of(two)
        [cover] = covers(stage)
        before = contents(cover)
        spoilt = await stage.act(one, _SPOIL)
        assert "HEAD" not in spoilt.stderr
        seen = await stage.act(
            two,
            "git status --porcelain && git config user.name && git log --format=%H -1 && ls .git/hooks 2>&1",
        )
        assert seen.stdout.splitlines()[:2] == ['The "Only" Committer', stage.main], seen
        assert contents(cover) == before
        made = await stage.act(two, "echo mine > mine.txt && git add -A && git commit -qm mine && git status")
        assert "nothing to commit" in made.stdout, made
        assert await stage.collect(two)
    assert covers(stage) == [cover]


async def test_cover_is_one_for_all_branches_at_a_commit(stage: Stage) -> None:
    git("branch", "other", "main", cwd=stage.bare)
    async with stage.open_worktree() as on_main:
        base = await stage.repositories.resolve(stage.url, "other")
        async with stage.repositories.open_worktree(
            base, agent_id="a2", task_id="T-2", backend=stage.backend
        ) as on_other:
            assert cover_of(on_main) == cover_of(on_other)
            for worktree, branch in ((on_main, "main"), (on_other, "other")):
                seen = await stage.act(worktree, "git for-each-ref --format='%(refname)' && git fsck 2>&1")
                assert seen.stdout.splitlines() == ["refs/heads/agent", f"refs/remotes/origin/{branch}"], seen
    assert len(covers(stage)) == 1


async def test_another_identity_after_a_restart_gets_a_cover_of_its_own(stage: Stage) -> None:
    async with stage.open_worktree():
        [first] = covers(stage)
    stage.repositories = Repositories(
        stage.home,
        user=stage.backend.user,
        layered=True,
        rules=UrlRules((stage.remotes,)),
        identity=Identity("Somebody Else", "else@example.org"),
    )
    async with stage.open_worktree() as worktree:
        assert (await stage.act(worktree, "git config user.name")).stdout == "Somebody Else\n"
        assert first in covers(stage)
        assert len(covers(stage)) == 2


async def test_half_a_cover_of_a_crash_is_not_used_and_goes_with_its_checkout(stage: Stage) -> None:
    async with stage.open_worktree():
        [cover] = covers(stage)
    (cover / ".git/HEAD").unlink()
    half = cover.rename(cover.with_name("making-0123456789abcdef"))
    async with stage.open_worktree() as worktree:
        assert (await stage.act(worktree, "git log --format=%s -1")).stdout
        assert half.exists()
    for number in range(10):
        stage.advance(f"{number}\n")
        async with stage.open_worktree():
            pass
    assert not half.exists()


async def test_a_cover_that_could_not_be_written_leaves_nothing(stage: Stage) -> None:
    base = await stage.repositories.resolve(stage.url, "main")
    checkouts = Checkouts(stage.home / "checkouts", stage.backend.user)
    async with checkouts.hold(base.mirror, base.commit) as shared:
        content = PrivateGit(base.commit, shared.index.with_name("none"), ("/x",), Identity("a", "b"))
        with pytest.raises(FileNotFoundError):
            shared.git_cover(content, stage.backend.user)
        assert sorted(path.name for path in shared.tree.parent.iterdir()) == ["index", "tree"]
