"""A branch of a local remote is read in place of asked, and still seen wherever it has gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import BranchMissing, RepositoryError
from orchestrator.repo.unmoved import stands_at
from tests.kit.remote import git
from tests.repo.stage import Stage

Change = Callable[[Path], object]


async def resolved(stage: Stage, branch: str = "main") -> str:
    """Return the commit that an agent would start from."""
    return (await stage.repositories.resolve(stage.url, branch)).commit


def reads(stage: Stage, commit: str, branch: str = "main", directory: Path | None = None) -> bool:
    """Return whether the branch is seen to be at the commit without git."""
    return stands_at(directory or stage.bare, (stage.remotes,), branch, commit)


def as_owner(stage: Stage, path: Path) -> None:
    """Give what was just made to the owner of the remote."""
    owner = stage.bare.stat()
    os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


async def test_branch_that_did_not_move_is_read_and_one_that_moved_is_seen_at_once(stage: Stage) -> None:
    first = await resolved(stage)
    assert reads(stage, first)
    second = stage.advance()
    assert not reads(stage, first)
    assert await resolved(stage) == second
    git("update-ref", "refs/heads/main", first, cwd=stage.bare)  # forced back
    assert await resolved(stage) == first
    assert reads(stage, first)


@pytest.mark.parametrize("tidy", [("pack-refs", "--all"), ("gc", "-q", "--prune=now")])
async def test_packed_branch_is_read_and_its_next_move_is_seen(stage: Stage, tidy: tuple[str, ...]) -> None:
    first = await resolved(stage)
    git(*tidy, cwd=stage.bare)
    assert not (stage.bare / "refs/heads/main").exists()
    assert reads(stage, first)
    second = stage.advance("loose again\n")
    assert not reads(stage, first)
    assert await resolved(stage) == second
    git(*tidy, cwd=stage.bare)
    assert reads(stage, second)
    assert not reads(stage, first)
    assert await resolved(stage) == second


@pytest.mark.parametrize("packed", [False, True])
async def test_deleted_and_renamed_branches_are_missed_at_once(stage: Stage, *, packed: bool) -> None:
    git("branch", "topic/a", "main", cwd=stage.bare)
    commit = await resolved(stage, "topic/a")
    if packed:
        git("pack-refs", "--all", cwd=stage.bare)
    assert reads(stage, commit, "topic/a")
    git("branch", "-m", "topic/a", "topic", cwd=stage.bare)
    assert not reads(stage, commit, "topic/a")
    with pytest.raises(BranchMissing):
        await resolved(stage, "topic/a")
    assert await resolved(stage, "topic") == commit
    git("branch", "-D", "topic", cwd=stage.bare)
    with pytest.raises(BranchMissing):
        await resolved(stage, "topic")


async def test_repository_with_a_worktree_of_its_own_is_read(stage: Stage) -> None:
    plain = stage.remotes / "plain"
    git("clone", "-q", str(stage.bare), str(plain))
    assert reads(stage, stage.main, directory=plain)
    git("checkout", "-q", "--detach", cwd=plain)
    assert reads(stage, stage.main, directory=plain)
    git("worktree", "add", "-q", str(stage.remotes / "linked"), cwd=plain)
    assert not reads(stage, stage.main, directory=stage.remotes / "linked")


def replaced_by_link(path: Path) -> None:
    """Put a link in the place of a file or directory, which leads to where it is now."""
    moved = path.with_name(path.name + ".moved")
    path.rename(moved)
    path.symlink_to(moved)


def replaced_by_fifo(path: Path) -> None:
    """Put a FIFO that nobody writes in the place of a file."""
    path.unlink()
    os.mkfifo(path)


def replaced_by_huge(path: Path) -> None:
    """Put a file of a terabyte in the place of another."""
    with path.open("ab") as file:
        file.truncate(2**40)


@pytest.mark.parametrize("change", [replaced_by_link, replaced_by_fifo, replaced_by_huge])
@pytest.mark.parametrize("name", ["refs/heads/main", "HEAD", "config", "packed-refs"])
async def test_strange_files_are_left_to_git_and_hold_nothing_up(
    stage: Stage, name: str, change: Change
) -> None:
    commit = await resolved(stage)
    if name == "packed-refs":
        git("pack-refs", "--all", cwd=stage.bare)
    assert reads(stage, commit)
    change(stage.bare / name)
    as_owner(stage, stage.bare / name)
    assert not reads(stage, commit)


async def test_symbolic_and_linked_branches_are_followed_by_git_alone(stage: Stage) -> None:
    commit = await resolved(stage)
    git("branch", "other", cwd=stage.bare)
    git("symbolic-ref", "refs/heads/main", "refs/heads/other", cwd=stage.bare)
    assert not reads(stage, commit)
    assert await resolved(stage) == commit
    replaced_by_link(stage.bare / "refs/heads")
    assert not reads(stage, commit, "other")


@pytest.mark.parametrize(
    "config",
    [
        "[transfer]\n\thideRefs = refs/heads/main\n",
        "[UploadPack]\n\thideRefs = refs/heads\n",
        "[include]\n\tpath = elsewhere\n",
        "[extensions]\n\trefStorage = reftable\n",
        '[includeIf "gitdir:/"]\n\tpath = elsewhere\n',
        "[core] bare = true\n",
        "[core]\n\tx = y\\\n[transfer]\n",
        "\N{ZERO WIDTH NO-BREAK SPACE}[transfer]\n\thideRefs = refs\n",
        "[core]\n\trepositoryformatversion = 1\n",
        "[core]\n\trepositoryFormatVersion=1\n",
        "nonsense ]\n",
    ],
)
async def test_configuration_that_could_change_the_answer_is_left_to_git(stage: Stage, config: str) -> None:
    commit = await resolved(stage)
    path = stage.bare / "config"
    path.write_text(config + path.read_text())
    assert not reads(stage, commit)
    path.write_text(
        '# a comment\n[Core]\n\tbare = true\n\trepositoryformatversion = 0\n[remote "o"]\n\turl = /\n'
    )
    assert reads(stage, commit)


async def test_hidden_branch_is_as_missing_as_git_says(stage: Stage) -> None:
    await resolved(stage)
    git("config", "transfer.hideRefs", "refs/heads/main", cwd=stage.bare)
    with pytest.raises(BranchMissing):
        await resolved(stage)


async def test_what_is_no_repository_any_more_is_told(stage: Stage) -> None:
    commit = await resolved(stage)
    (stage.bare / "HEAD").unlink()
    assert not reads(stage, commit)
    with pytest.raises(RepositoryError):
        await resolved(stage)


@pytest.mark.parametrize("text", ["{}", "{} \n", "{}\n\n", "{}\r\n", "ref: {}\n", "", "0{}\n"])
async def test_ref_file_must_be_exactly_as_git_writes_it(stage: Stage, text: str) -> None:
    commit = await resolved(stage)
    (stage.bare / "refs/heads/main").write_text(text.format(commit), newline="")
    assert not reads(stage, commit)


async def test_packed_refs_must_name_the_branch_once(stage: Stage) -> None:
    commit = await resolved(stage)
    git("pack-refs", "--all", cwd=stage.bare)
    packed = stage.bare / "packed-refs"
    whole = packed.read_text()
    for text in (
        whole + f"{'0' * 40} refs/heads/main\n",
        whole.rstrip("\n"),
        whole.replace(commit, f"x{commit[1:]}"),
        whole.replace(commit, f"0{commit}"),
        whole.replace("refs/heads/main", "refs/heads/maine"),
        f"{commit[1:]} refs/heads/main\n",
    ):
        packed.write_text(text)
        assert not reads(stage, commit)
    packed.write_text(f"{commit} refs/heads/main\n")
    assert reads(stage, commit)


async def test_branch_names_lead_nowhere_else(stage: Stage) -> None:
    commit = await resolved(stage)
    for branch in ("../heads/main", "./main", "main/", "/main", "", "main\0", "main/x"):
        assert not reads(stage, commit, branch)


async def test_another_git_directory_in_it_is_the_one_that_counts(stage: Stage) -> None:
    commit = await resolved(stage)
    inner = stage.bare / ".git"
    inner.mkdir()
    as_owner(stage, inner)
    assert not reads(stage, commit)  # git falls back to the outer one; that is for git to find out
    assert await resolved(stage) == commit
    inner.rmdir()
    shutil.copytree(stage.bare, inner)
    for path in (inner, *inner.rglob("*")):
        as_owner(stage, path)
    newer = stage.advance()  # git pushes into the inner one, as it reads from it
    assert (stage.bare / "refs/heads/main").read_text() == f"{commit}\n"
    assert not reads(stage, commit)
    assert await resolved(stage) == newer
    assert reads(stage, newer)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_file_that_its_owner_could_not_read_is_left_to_git(stage: Stage) -> None:
    for path in (stage.bare, *stage.bare.rglob("*")):
        os.chown(path, 1500, 1500)
    commit = await resolved(stage)
    assert reads(stage, commit)
    ref = stage.bare / "refs/heads/main"
    os.chown(ref, 0, 0)
    assert reads(stage, commit)
    ref.chmod(0o600)
    assert not reads(stage, commit)


async def test_repository_outside_of_the_roots_device_is_left_to_git(stage: Stage) -> None:
    commit = await resolved(stage)
    assert not stands_at(stage.bare, (Path("/proc"),), "main", commit)
