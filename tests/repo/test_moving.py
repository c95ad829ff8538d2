"""A branch that moved on: a commit is brought there, and where it does not fit the agent gets it back."""

from __future__ import annotations

import subprocess

import pytest

from orchestrator.core.conflict import LABELLED
from orchestrator.errors import GitFailed
from orchestrator.repo.quarantine import Sealed
from orchestrator.repo.worktree import Worktree
from sandbox.base import Limits
from tests.kit.remote import git
from tests.repo.stage import Stage
from tests.repo.test_kept_worktrees import Crash, take_up


async def seal(stage: Stage, worktree: Worktree) -> Sealed:
    """Collect what the agent made, which the policy must allow, and seal it."""
    candidate = await stage.collect(worktree)
    assert candidate is not None
    assert await worktree.quarantine.judge(candidate) == []
    return await worktree.quarantine.seal(candidate, "Change it\n\nTask: T-1")


def others_land(stage: Stage, script: str) -> str:
    """Let somebody else change the files of main, and return the commit."""
    seed = stage.remotes / "repo.seed"
    subprocess.run(["sh", "-ec", script], cwd=seed, check=True)
    git("add", "-A", cwd=seed)
    git("commit", "-qm", "somebody else", cwd=seed)
    git("push", "-q", str(stage.bare), "main", cwd=seed)
    return git("rev-parse", "HEAD", cwd=seed).strip()


async def move(stage: Stage, worktree: Worktree, script: str = "echo theirs > README.md") -> str:
    """Land something else on main and bring the agent's work there; return the new base."""
    sealed = await seal(stage, worktree)
    onto = others_land(stage, script)
    assert (await stage.repositories.resolve(stage.url, "main")).commit == onto
    brought = await worktree.quarantine.bring(sealed, onto)
    await worktree.move(onto, brought.tree, None, limits=Limits(), deadline_s=20)
    return onto


async def test_a_change_that_fits_is_brought_onto_the_new_base_as_one_commit(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "echo mine >> src/app.sh; printf '* merge=evil\\n' > .gitattributes")
        sealed = await seal(stage, worktree)
        onto = others_land(stage, "echo theirs > README.md")
        await stage.repositories.resolve(stage.url, "main")
        brought = await worktree.quarantine.bring(sealed, onto)
        assert brought.conflicts == ()
        assert brought.commit is not None
        there = worktree.over(onto, None)
        assert await there.quarantine.judge(brought.commit) == []
        again = await there.quarantine.seal(brought.commit, await there.quarantine.subject_of(brought.commit))
        assert (again.base, again.files) == (onto, 2)
        files = "cat README.md src/app.sh; git log --format='%s %P' -1"
        assert await stage.look(there, again.commit, files) == f"theirs\necho app\nmine\nChange it {onto}\n"
        assert worktree.base.commit == sealed.base  # nothing was moved but the commit


async def test_a_change_that_others_landed_too_leaves_nothing(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "echo same > README.md")
        sealed = await seal(stage, worktree)
        onto = others_land(stage, "echo same > README.md")
        await stage.repositories.resolve(stage.url, "main")
        brought = await worktree.quarantine.bring(sealed, onto)
        assert (brought.commit, brought.conflicts) == (None, ())


async def test_a_conflict_is_told_file_by_file_with_both_sides(stage: Stage) -> None:
    others_land(stage, "echo kept > gone; seq 30 > far")
    async with stage.open_worktree() as worktree:
        await stage.must(
            worktree, "echo mine > README.md; rm gone; sed -i '2s/.*/my \\x1b[31mtwo/;29s/.*/my/' far"
        )
        sealed = await seal(stage, worktree)
        onto = others_land(
            stage, "echo theirs > README.md; echo changed > gone; sed -i '2s/.*/x/;29s/.*/y/' far"
        )
        await stage.repositories.resolve(stage.url, "main")
        brought = await worktree.quarantine.bring(sealed, onto)
        told = {conflict.path: conflict for conflict in brought.conflicts}
    assert brought.commit is None
    assert {path: conflict.kind for path, conflict in told.items()} == {
        "README.md": "contents",
        "gone": "modify/delete",
        "far": "contents",
    }
    assert told["README.md"].places == (
        f"<<<<<<< upstream-{onto[:12]}\ntheirs\n=======\nmine\n>>>>>>> yours-{sealed.commit[:12]}",
    )
    assert len(told["far"].places) == 2
    assert "my two" in told["far"].places[0]


async def test_the_agent_goes_on_at_the_new_base_with_both_sides_in_its_files(any_stage: Stage) -> None:
    stage = any_stage
    async with stage.open_worktree() as worktree:
        await stage.must(
            worktree,
            "echo mine > README.md; echo own > new; git add new; git commit -qm own\n"
            "echo '*.o' >> .git/info/exclude; echo built > a.o",
        )
        onto = await move(stage, worktree, "echo theirs > README.md; rm src/app.sh")
        assert worktree.base.commit == onto
        seen = await stage.must(
            worktree, "git rev-parse HEAD origin/main; git status --short; cat a.o README.md"
        )
        assert seen.splitlines()[:5] == [onto, onto, " M README.md", "?? new", "built"]
        assert "theirs\n=======\nmine\n" in seen
        candidate = await stage.collect(worktree)
        assert candidate is not None
        left = await worktree.quarantine.judge(candidate)
        assert [(found.rule, found.path) for found in left] == [("conflict", "README.md")]
        await stage.must(worktree, f"sed -Ei '/{LABELLED}|^=======$/d' README.md")
        sealed = await seal(stage, worktree)
        assert (sealed.base, sealed.files) == (onto, 2)
        assert await stage.look(worktree, sealed.commit, "cat README.md new; ls src 2>&1 || true") != ""


@pytest.mark.parametrize("ruin", ["rm -rf .git", "echo x > .git/HEAD", "rm -rf .git; mkfifo .git"])
async def test_an_agents_own_repository_that_is_of_no_use_is_replaced(stage: Stage, ruin: str) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, f"echo mine > new; chmod 000 README.md; {ruin}")
        onto = await move(stage, worktree)
        seen = await stage.must(worktree, "git rev-parse HEAD; git status --short; cat README.md new")
        assert seen.split() == [onto, "??", "new", "theirs", "mine"]
        await stage.must(worktree, "echo more >> new; git add new; git commit -qm More")
        assert (await seal(stage, worktree)).base == onto


@pytest.mark.parametrize("crashed", [False, True])
async def test_a_worktree_that_was_moved_is_taken_up_where_it_is(any_stage: Stage, crashed: bool) -> None:
    stage = any_stage
    onto = ""
    try:
        async with stage.open_worktree() as worktree:
            worktree.kept = True
            await stage.must(worktree, "echo mine > new")
            onto = await move(stage, worktree)
            if crashed:
                raise Crash
    except Crash:
        pass
    stage.repositories = stage.open_repositories()
    async with take_up(stage) as worktree:
        assert (worktree.base.commit, worktree.tenancy.moving) == (onto, ())
        assert (await stage.must(worktree, "git rev-parse HEAD; cat README.md new")).split() == [
            onto,
            "theirs",
            "mine",
        ]
        sealed = await seal(stage, worktree)
        assert (sealed.base, sealed.files) == (onto, 1)


async def test_a_move_that_was_cut_off_is_done_at_the_next_opening(stage: Stage) -> None:
    try:
        async with stage.open_worktree() as worktree:
            worktree.kept = True
            await stage.must(worktree, "echo mine > README.md")
            sealed = await seal(stage, worktree)
            onto = others_land(stage, "echo theirs > README.md; echo more > more")
            await stage.repositories.resolve(stage.url, "main")
            brought = await worktree.quarantine.bring(sealed, onto)
            with pytest.raises(GitFailed, match="could not be brought"):
                await worktree.move(onto, brought.tree, None, limits=Limits(), deadline_s=0)
            raise Crash
    except Crash:
        pass
    stage.repositories = stage.open_repositories()
    async with take_up(stage) as worktree:
        assert worktree.tenancy.moving == ()
        seen = await stage.must(worktree, "git rev-parse HEAD; cat more README.md")
        assert seen.startswith(f"{onto}\nmore\n<<<<<<< upstream-")


async def test_what_a_moved_agent_leaves_is_salvaged_over_its_new_base(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "echo mine > new")
        onto = await move(stage, worktree)
        await stage.must(worktree, "echo more >> new; rm -rf .git")
        ref = await worktree.salvage(limits=Limits(), deadline_s=20)
        assert ref == "refs/salvage/a1"
        mirror = worktree.base.mirror
        parent = (await mirror.git.run("rev-parse", f"{ref}^")).decode().strip()
        assert parent == onto
