"""The chain from a remote through an agent's hands and back, on every tier."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import trio

from orchestrator.errors import RepositoryError
from orchestrator.repo.checkouts import Checkouts
from orchestrator.repo.inside import LEFT_OUT
from orchestrator.repo.landing import land
from sandbox.base import Layers, Limits
from tests.kit.remote import branches, git
from tests.repo.stage import IDENTITY, Stage, intent

#: A change of every kind that git knows, made by an agent.
CHANGES = r"""
printf 'changed\n' > README.md
mkdir -p deep/er
printf '\000\001\377binary\r\n' > deep/er/blob
printf 'x\n' > 'name with space'
printf 'x\n' > "$(printf 'caf\303\251-\360\237\214\215')"
printf 'x\n' > "$(printf 'old\351latin')"
ln -s ../README.md deep/link
printf '#!/bin/sh\n' > run.sh; chmod 755 run.sh
git mv src/app.sh src/moved.sh
printf 'quote"d' > 'quote"d'
: > empty
"""


async def test_work_goes_the_whole_way_and_nothing_is_left(any_stage: Stage) -> None:
    stage = any_stage
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "echo new > new.txt")
        assert worktree.touched()
        candidate = await stage.collect(worktree)
        assert candidate is not None
        assert await worktree.quarantine.judge(candidate) == []
        sealed = await worktree.quarantine.seal(candidate, "Do it\n\nTask: T-1")
        assert (sealed.files, sealed.additions, sealed.deletions) == (1, 1, 0)
        seen = await stage.look(
            worktree, sealed.commit, "cat new.txt; git log --format=%an; git status --short"
        )
        assert seen == f"new\n{IDENTITY.name}\nt@t\n"
        push = intent(stage.url, "refs/heads/agent/T-1", sealed.commit)
        await land(worktree.base, worktree.quarantine, push)
        await land(worktree.base, worktree.quarantine, push)  # a second time is no harm
        assert b"+new" in await worktree.quarantine.diff(sealed.commit, max_bytes=10_000)
    assert stage.repositories.directories() == []
    assert branches(stage.bare)["agent/T-1"] == sealed.commit
    assert git("rev-list", "--count", "main..agent/T-1", cwd=stage.bare) == "1\n"
    assert git("log", "-1", "--format=%an|%ae|%cn|%ce|%B", "agent/T-1", cwd=stage.bare) == (
        f"{IDENTITY.name}|{IDENTITY.email}|{IDENTITY.name}|{IDENTITY.email}|Do it\n\nTask: T-1\n\n"
    )
    assert b"+new" in await stage.repositories.diff(stage.url, stage.main, sealed.commit, max_bytes=10_000)


async def test_every_kind_of_change_survives_byte_for_byte(any_stage: Stage) -> None:
    async with any_stage.open_worktree() as worktree:
        await any_stage.must(worktree, CHANGES)
        files = "find . -path ./.git -prune -o -type f -print0 | sort -z | xargs -0 sha256sum"
        listing = f"readlink deep/link; {files} | base64"
        before = await any_stage.must(worktree, listing)
        commit = await any_stage.deliver(worktree)
        assert await any_stage.look(worktree, commit, listing) == before
    tree = git("ls-tree", "-r", commit, cwd=any_stage.bare)
    assert "100755 blob" in tree
    assert "120000 blob" in tree
    assert "src/app.sh" not in tree
    assert r"caf\303\251-\360\237\214\215" in tree


async def test_the_agents_own_commits_and_its_leftovers_become_one_commit(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        script = "echo 1 > one; git add one; git commit -qm 'Add one\n\nbody'; echo 2 > two"
        await stage.must(worktree, script)
        candidate = await stage.collect(worktree)
        assert candidate is not None
        assert await worktree.quarantine.subject_of(candidate) == "Add one"
        # A second turn on top of what was collected.
        assert await stage.must(worktree, "git status --short; git log -1 --format=%s") == "Left over\n"
        await stage.must(
            worktree, "git commit -q --amend -m $(printf 'evil\\033]0;x\\007') --allow-empty; echo 3 > three"
        )
        candidate = await stage.collect(worktree)
        assert candidate is not None
        assert await worktree.quarantine.subject_of(candidate) == "evil"
        sealed = await worktree.quarantine.seal(candidate, "all")
        assert sealed.files == 3
        assert git("rev-list", "--parents", "-1", sealed.commit, cwd=worktree.quarantine.directory).split()[
            1:
        ] == [worktree.base.commit]


@pytest.mark.parametrize(
    "script",
    [
        "",
        "echo x > x; git add x; git commit -qm x; git rm -q x; git commit -qm back",
        "git commit -q --allow-empty -m nothing",
        "echo x > ignored.tmp; echo '*.tmp' > .git/info/exclude",
    ],
)
async def test_nothing_new_is_no_candidate(any_stage: Stage, script: str) -> None:
    async with any_stage.open_worktree() as worktree:
        await any_stage.must(worktree, "mkdir -p .git/info\n" + script)
        assert await any_stage.collect(worktree) is None
        assert (worktree.left_out is not None) is ("ignored" in script)


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("echo x > x; git add x; git -c user.name=x -c user.email=x@x stash -q", "stashed"),
        ("mkdir -p build; echo x > build/x; echo build > .git/info/exclude", "ignored"),
    ],
)
async def test_work_that_is_left_out_is_named(any_stage: Stage, script: str, word: str) -> None:
    async with any_stage.open_worktree() as worktree:
        await any_stage.must(worktree, "mkdir -p .git/info\n" + script)
        assert await any_stage.collect(worktree) is None
        assert worktree.left_out == LEFT_OUT[word]
        await any_stage.must(worktree, "rm -rf build; git stash clear; echo y > y")
        assert await any_stage.collect(worktree) is not None
        assert worktree.left_out is None


@pytest.mark.parametrize(
    "script",
    [
        "git checkout -q --detach; echo x > x; git add x; git commit -qm d",
        "git checkout -q -b other; echo x > x",
        "git checkout -q --orphan fresh; git commit -qm orphan; echo x > x",
        "git update-ref -d refs/heads/agent; echo x > x",
        "echo x > x; git add x; git commit -q --amend -m rewritten",
        "git config core.bare true; echo x > x",
        "echo x > x; git add x; git tag -a -m t v1; git branch agent/deeper 2>/dev/null || :",
    ],
)
async def test_wherever_the_agents_head_is_its_work_counts(stage: Stage, script: str) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, script)
        commit = await stage.deliver(worktree)
    assert git("diff", "--name-status", "main", commit, cwd=stage.bare) == "A\tx\n"
    assert git("rev-parse", f"{commit}^", cwd=stage.bare).strip() == stage.main


async def test_files_that_the_agent_forbade_itself_are_collected(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "mkdir d; echo x > d/x; chmod 000 d/x d")
        assert await stage.deliver(worktree)


async def test_fifty_worktrees_at_once_do_not_get_in_each_others_way(stage: Stage) -> None:
    landed: list[str] = []

    async def one(number: int) -> None:
        async with stage.open_worktree(f"a{number}", f"T-{number}") as worktree:
            await stage.must(worktree, f"echo {number} > file-{number}")
            landed.append(await stage.deliver(worktree, f"refs/heads/agent/T-{number}"))

    async with trio.open_nursery() as everybody:
        for number in range(50):
            everybody.start_soon(one, number)
    assert len(set(landed)) == 50
    assert len(branches(stage.bare)) == 51
    assert stage.repositories.directories() == []


async def test_another_user_can_list_nothing_and_read_no_worktree(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        assert isinstance(worktree.workspace, Layers)
        room = worktree.workspace.upper.parent
        assert stat.S_IMODE(room.stat().st_mode) == 0o700
        assert room.stat().st_uid == stage.backend.user.uid
        assert worktree.workspace.upper.stat().st_uid == stage.backend.user.uid
        for path in (room.parent, worktree.quarantine.directory.parent, stage.home / "mirrors"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o711
        assert stat.S_IMODE(worktree.quarantine.directory.stat().st_mode) == 0o750
        assert stat.S_IMODE(worktree.base.mirror.directory.stat().st_mode) == 0o750


async def test_a_strict_umask_changes_nothing(stage: Stage) -> None:
    before = os.umask(0o077)
    try:
        async with stage.open_worktree() as worktree:
            await stage.must(worktree, "echo x > x")
            commit = await stage.deliver(worktree)
            assert await stage.look(worktree, commit, "cat x") == "x\n"
    finally:
        os.umask(before)


async def test_a_file_of_the_base_is_read_and_the_candidates_is_not(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "echo evil > README.md")
        await stage.collect(worktree)
        quarantine = worktree.quarantine
        assert await quarantine.read_base("README.md", max_bytes=100) == b"hello\n"
        assert await quarantine.read_base("none", max_bytes=100) is None
        assert await quarantine.read_base("src", max_bytes=100) is None
        assert await quarantine.read_base("a\nb", max_bytes=100) is None
        assert await quarantine.list_base() == ("README.md", "src")
        assert await quarantine.list_base("src/") == ("app.sh",)
        assert await quarantine.list_base("none") == ()
        with pytest.raises(RepositoryError, match="larger than 3 bytes"):
            await quarantine.read_base("README.md", max_bytes=3)
        await stage.must(worktree, """mkdir p; ln -s '{"scripts": {}}' p/package.json; echo '{}' >p/x.json""")
        candidate = await stage.collect(worktree)
        assert candidate is not None
        there = quarantine.over(candidate)
        assert (await there.read_plain("p/x.json"), await there.read_plain("q/none")) == (b"{}\n", None)
        with pytest.raises(RepositoryError, match="is a link"):
            await there.read_plain("p/package.json")


async def test_a_long_diff_is_cut_with_a_mark(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "seq 100000 > numbers")
        candidate = await stage.collect(worktree)
        assert candidate is not None
        patch = await worktree.quarantine.diff(candidate, max_bytes=1000)
    assert patch.endswith(b"\n[cut here: the diff is longer than 1000 bytes]\n")
    assert len(patch) < 1100


async def test_unlanded_work_is_salvaged_and_can_be_looked_at(any_stage: Stage) -> None:
    async with any_stage.open_worktree() as worktree:
        assert await worktree.salvage(limits=Limits(), deadline_s=20) is None
        await any_stage.must(worktree, "echo precious > p; git add p; git commit -qm p; echo more > q")
        ref = await worktree.salvage(limits=Limits(), deadline_s=20)
    assert ref == "refs/salvage/a1"
    fresh = any_stage.open_repositories()
    patch = await fresh.diff(any_stage.url, any_stage.main, ref, max_bytes=10_000)
    assert b"+precious" in patch
    assert b"+more" in patch


async def test_a_crash_leaves_directories_that_the_next_process_reaps(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "mkdir -p a/b; ln -s / a/b/root; mkfifo f; rm README.md")
        fresh = stage.open_repositories()
        assert fresh.directories() == ["agent-a1-T-1"]
        await fresh.reap("agent-a1-T-1")
        assert fresh.directories() == []
    for name in ("../mirrors", "agent-a1-T-1", "", "."):
        with pytest.raises(RepositoryError):
            await stage.repositories.reap(name)


def test_what_is_not_ours_among_the_worktrees_is_never_reaped(stage: Stage) -> None:
    theirs = stage.home / "workspaces" / "agent-of-somebody"
    theirs.mkdir()
    assert stage.open_repositories().directories() == []
    assert theirs.exists()


async def test_a_cancelled_worktree_is_removed(stage: Stage) -> None:
    with trio.CancelScope() as scope:
        async with stage.open_worktree() as worktree:
            await stage.must(worktree, "seq 1000 | xargs touch")
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert stage.repositories.directories() == []


@pytest.mark.parametrize("moment", range(0, 60, 4))
async def test_a_kill_at_any_moment_leaves_no_worktree(stage: Stage, moment: int) -> None:
    with trio.move_on_after(moment / 200):
        async with stage.open_worktree() as worktree:
            await stage.must(worktree, "echo x > x")
            await stage.deliver(worktree)
    assert stage.repositories.directories() == []
    async with stage.open_worktree("a2", "T-2") as worktree:
        await stage.must(worktree, "echo y > y")
        await stage.deliver(worktree, "refs/heads/agent/T-2")


async def test_old_checkouts_go_and_those_in_use_stay(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.repo.checkouts.KEEP", 2)
    async with stage.open_worktree() as first:
        for number in range(4):
            stage.advance(f"{number}\n")
            async with stage.open_worktree(f"b{number}", f"B-{number}") as worktree:
                await stage.must(worktree, "cat elsewhere.txt")
        shared: list[Path] = list((stage.home / "checkouts").glob("*/*"))
        assert len(shared) == 3
        assert await stage.must(first, "ls") == "README.md\nsrc\n"


async def test_many_who_tidy_checkouts_up_at_once_do_not_trip_over_each_other(stage: Stage) -> None:
    checkouts = Checkouts(stage.home / "checkouts", stage.backend.user)
    place = stage.home / "checkouts" / "remote"
    for number in range(6):
        for directory in range(3):
            (place / f"old-{number}" / f"{directory}").mkdir(parents=True)
            (place / f"old-{number}" / f"{directory}" / "file").touch()
    (stage.home / "checkouts" / "note.txt").touch()
    async with trio.open_nursery() as tidying:
        for _ in range(4):
            tidying.start_soon(checkouts.sweep)
    assert list(place.iterdir()) == []


async def test_a_checkout_cut_off_in_the_middle_is_no_checkout(stage: Stage) -> None:
    base = await stage.repositories.resolve(stage.url, "main")
    place = stage.home / "checkouts" / base.mirror.directory.name
    place.mkdir()
    half = place / "making-0123456789abcdef"
    half.mkdir()
    (half / "index").touch()
    async with stage.open_worktree() as worktree:
        assert await stage.must(worktree, "git status --short") == ""
    assert [path.name for path in place.iterdir()] == [base.commit]
