"""A candidate in a bundle: it arrives as it was sealed, and whatever else a bundle may be is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator.errors import ImportRefused, RepositoryError
from orchestrator.repo.candidate import bundle
from orchestrator.repo.handing import base_on, take_in
from tests.kit.remote import git
from tests.repo.stage import Stage

MIB = 1 << 20


async def sealed_bundle(stage: Stage, script: str) -> tuple[str, bytes]:
    """Return a candidate that an agent made by a script, and the bundle of it."""
    async with stage.open_worktree("sender") as worktree:
        await stage.must(worktree, script)
        candidate = await stage.collect(worktree)
        assert candidate is not None
        sealed = await worktree.quarantine.seal(candidate, "Do it")
        packed = await bundle(worktree.quarantine, sealed.commit, max_bytes=MIB)
        assert packed is not None
        return sealed.commit, packed


def made_by_hand(stage: Stage, path: Path, script: str) -> tuple[str, bytes]:
    """Return a commit over main that is made without any of our checks, and a bundle of it by git itself."""
    git("clone", "-q", str(stage.bare), str(path))
    subprocess.run(["sh", "-ec", script], cwd=path, check=True, capture_output=True)
    commit = git("rev-parse", "evil", cwd=path).strip()
    git("update-ref", "refs/heads/candidate", commit, cwd=path)
    git("bundle", "create", "--version=2", str(path / "b"), "candidate", f"^{stage.main}", cwd=path)
    return commit, (path / "b").read_bytes()


async def test_bundle_brings_the_very_commit_and_nothing_before_it(stage: Stage, tmp_path: Path) -> None:
    commit, packed = await sealed_bundle(stage, "echo new > new.txt; rm README.md; echo b > 'odd name'")
    assert len(packed) < 2000
    (tmp_path / "b").write_bytes(packed)
    assert commit in git("bundle", "verify", str(tmp_path / "b"), cwd=stage.remotes / "repo.seed")
    async with stage.open_worktree("receiver") as worktree:
        await take_in(worktree.quarantine, packed, commit)
        assert await worktree.quarantine.judge(commit) == []
        assert await worktree.quarantine.changed(commit) == ("README.md", "new.txt", "odd name")
        assert await stage.look(worktree, commit, "cat new.txt; ls") == "new\nnew.txt\nodd name\nsrc\n"


async def test_bundle_that_is_too_large_is_none(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "head -c 100000 /dev/urandom > noise")
        candidate = await stage.collect(worktree)
        assert candidate is not None
        assert await bundle(worktree.quarantine, candidate, max_bytes=50_000) is None


@pytest.mark.parametrize("cut", [0, 40, 120, 200, -1])
async def test_what_is_no_whole_bundle_is_refused(stage: Stage, cut: int) -> None:
    commit, packed = await sealed_bundle(stage, "echo new > new.txt")
    async with stage.open_worktree("receiver") as worktree:
        with pytest.raises(ImportRefused):
            await take_in(worktree.quarantine, packed[:cut], commit)
        await take_in(worktree.quarantine, packed, commit)  # which it survives


async def test_bundle_of_another_commit_or_base_is_refused(stage: Stage) -> None:
    commit, packed = await sealed_bundle(stage, "echo new > new.txt")
    other, _ = await sealed_bundle(stage, "echo other > new.txt")
    async with stage.open_worktree("receiver") as worktree:
        for wrong in (
            packed.replace(commit.encode(), other.encode()),  # what it says is not what it holds
            packed.replace(stage.main.encode(), b"1" * 40),
            packed.replace(b"\n" + commit.encode(), b"\n-" + b"2" * 40 + b" x\n" + commit.encode()),
            packed.replace(b"# v2", b"# v3"),
        ):
            with pytest.raises(ImportRefused):
                await take_in(worktree.quarantine, wrong, other if wrong is packed else commit)
        with pytest.raises(ImportRefused, match="not one of that commit"):
            await take_in(worktree.quarantine, packed, other)


IDENTITY = "GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a"
COMMITTED = f" c=$({IDENTITY} git commit-tree $t -p HEAD -m x); git update-ref refs/heads/evil $c"
HOSTILE = {
    ".git in a tree": "t=$(printf x | git hash-object -w --stdin);"
    " t=$(printf '100644 blob %s\\t.git\\n' $t | git mktree);",
    "a way out": "t=$(printf x | git hash-object -w --stdin);"
    " t=$(printf '100644 blob %s\\t..\\n' $t | git mktree);",
    "a commit without an end": "t=$(printf 'tree %s\\nparent %s\\nnonsense\\n\\nx'"
    " $(git rev-parse HEAD^{tree} HEAD) | git hash-object -w -t commit --literally --stdin);"
    " git update-ref refs/heads/evil $t; exit 0;",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_objects_are_refused_as_an_agents_are(stage: Stage, tmp_path: Path, name: str) -> None:
    commit, packed = made_by_hand(stage, tmp_path / "evil", HOSTILE[name] + COMMITTED)
    async with stage.open_worktree("receiver") as worktree:
        with pytest.raises(ImportRefused, match="the bundle was refused"):
            await take_in(worktree.quarantine, packed, commit)


async def test_base_must_be_on_the_branch(stage: Stage) -> None:
    old = stage.main
    aside = stage.advance("aside\n", branch="aside")
    git("checkout", "-q", "main", cwd=stage.remotes / "repo.seed")
    new = stage.advance()
    assert (await base_on(stage.repositories, stage.url, "main", new)).commit == new
    assert (await base_on(stage.repositories, stage.url, "main", old)).commit == old
    await stage.repositories.resolve(stage.url, "aside")
    for wrong in (aside, "1" * 40, "main", "--all"):
        with pytest.raises(RepositoryError):
            await base_on(stage.repositories, stage.url, "main", wrong, landing="no-such-branch")


async def test_base_may_be_on_the_branch_that_the_work_lands_on(stage: Stage) -> None:
    work = stage.advance("theirs\n", branch="work")
    tip = stage.advance("theirs, too\n", branch="work")
    for commit in (work, tip, stage.main):
        found = await base_on(stage.repositories, stage.url, "main", commit, landing="work")
        assert found.commit == commit
    with pytest.raises(RepositoryError, match="is no commit of the branch main"):
        await base_on(stage.repositories, stage.url, "main", "1" * 40, landing="work")
