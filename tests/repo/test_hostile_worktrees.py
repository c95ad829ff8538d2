"""T-git-1: whatever an agent leaves in its worktree, nothing of it runs or is followed on the host."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
import trio

from orchestrator.errors import ImportRefused
from orchestrator.repo.landing import land
from orchestrator.repo.worktree import Worktree
from sandbox.base import Directory, Limits, User
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.trusted import ProcessBackend
from tests.kit.remote import git
from tests.repo.hostile import ROWS, RUINS, TOOLS, Row
from tests.repo.stage import Stage, intent

pytestmark = pytest.mark.slow

DEADLINE_S = 5.0
SLACK_S = 10.0


@pytest.fixture
def canary(reachable_path: Path) -> Path:
    """Return a directory that anybody may write, with a file and a repository in it."""
    path = reachable_path / "canary"
    path.mkdir()
    git("init", "-q", "--bare", str(path / "other"))
    (path / "rc").write_text("# do not touch\n")
    for directory, _, files in os.walk(path):
        Path(directory).chmod(0o777)
        for name in files:
            Path(directory, name).chmod(0o666)
    return path


def picture(root: Path) -> str:
    """Return a digest over every name and content below a directory."""
    digest = hashlib.sha256()
    for directory, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            path = Path(directory, name)
            digest.update(
                os.fsencode(path) + (os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes())
            )
        digest.update(os.fsencode(directory))
    return digest.hexdigest()


async def plant(stage: Stage, worktree: Worktree, row: Row, canary: Path) -> None:
    """Let the agent leave its worktree in the row's state."""
    hit = f"touch {canary}/fired 2>/dev/null"
    script = f"echo precious > work.txt\n{TOOLS}\n{row.plant}"
    outcome = await stage.act(worktree, script, HIT=hit, CANARY=str(canary))
    assert outcome.exit.ok, outcome


async def everything(stage: Stage, worktree: Worktree, row: Row) -> None:
    """Do all that the supervisor does with an agent's work, each within its deadline."""
    worktree.touched()
    with trio.fail_after(DEADLINE_S + SLACK_S):
        candidate = await stage.collect(worktree, DEADLINE_S)
    assert candidate is not None, "the work is lost"
    with trio.fail_after(SLACK_S):
        found = await worktree.quarantine.judge(candidate)
    assert {violation.rule for violation in found} == row.breaks, found
    with trio.fail_after(DEADLINE_S + SLACK_S):
        await worktree.quarantine.subject_of(candidate)
        sealed = await worktree.quarantine.seal(candidate, "hostile")
        await worktree.quarantine.diff(sealed.commit, max_bytes=100_000)
        if not found:
            assert await stage.look(worktree, sealed.commit, "cat work.txt") == "precious\n"
            await land(
                worktree.base, worktree.quarantine, intent(stage.url, "refs/heads/agent/T", sealed.commit)
            )
            assert git("show", "agent/T:work.txt", cwd=stage.bare) == "precious\n"
    with trio.fail_after(DEADLINE_S + SLACK_S):
        assert await worktree.salvage(limits=Limits(), deadline_s=DEADLINE_S) is not None


@pytest.mark.parametrize("row", [*ROWS, *RUINS], ids=str)
async def test_nothing_runs_on_the_host_and_the_work_survives(stage: Stage, canary: Path, row: Row) -> None:
    before = picture(canary)
    with trio.fail_after(55):
        async with stage.open_worktree() as worktree:
            await plant(stage, worktree, row, canary)
            await everything(stage, worktree, row)
    assert picture(canary) == before
    assert stage.repositories.directories() == []


def run_carelessly(script: str, cwd: Path, env: dict[str, str]) -> None:
    """Run a command on the host in a directory that an agent wrote."""
    argv = ["timeout", "5", "sh", "-c", script]
    subprocess.run(argv, cwd=cwd, env=env, check=False, capture_output=True, timeout=20)


@pytest.mark.parametrize("row", [row for row in ROWS if row.naive], ids=str)
async def test_a_careless_host_is_caught_by_the_same_states(
    reachable_path: Path, ordinary_user: User, canary: Path, row: Row, bubblewrap: BubblewrapBackend
) -> None:
    stage = Stage(reachable_path, BubblewrapBackend(ordinary_user, layered=False))
    before = picture(canary)
    async with stage.open_worktree() as worktree:
        await plant(stage, worktree, row, canary)
        assert isinstance(worktree.workspace, Directory)
        careless = {
            **os.environ,
            "CANARY": str(canary),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            # The mirror is at another place for the host; the careless one would have cloned to where it is.
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(worktree.base.mirror.objects),
        }
        await trio.to_thread.run_sync(run_carelessly, row.naive, worktree.workspace.path, careless)
    assert picture(canary) != before


async def test_an_agent_that_speaks_to_the_quarantine_itself_sets_no_other_ref(stage: Stage) -> None:
    script = r"""
    echo work > work.txt; git add -A; git commit -qm mine
    cat > .git/push <<'END'
#!/bin/sh
git -c core.hooksPath=/dev/null push "fd::$FD" HEAD:refs/heads/main HEAD:refs/heads/agent/other \
  HEAD:$REF/below HEAD:refs/tags/t +HEAD:refs/heads/agent/x >/dev/null 2>&1
cat
END
    chmod +x .git/push; git config filter.any.clean "$PWD/.git/push"
    echo '* filter=any' > .gitattributes
    """
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, script)
        await stage.collect(worktree)
        directory = worktree.quarantine.directory
        refs = {
            path.relative_to(directory).as_posix()
            for path in (directory / "refs").rglob("*")
            if path.is_file()
        }
    assert refs <= {"refs/heads/agent/1", "refs/heads/agent/2"}


async def test_work_that_cannot_be_collected_in_time_is_refused_in_time(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "echo x > x; rm -rf .git; seq 1 2000 | xargs touch")
        with trio.fail_after(SLACK_S), pytest.raises(ImportRefused, match=r"not done within 0\.01 s"):
            await stage.collect(worktree, 0.01)


async def test_an_agent_that_closes_its_room_without_a_namespace_loses_no_work(
    reachable_path: Path, ordinary_user: User
) -> None:
    stage = Stage(reachable_path, ProcessBackend(ordinary_user))
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "echo precious > work.txt; chmod 000 .. .")
        candidate = await stage.collect(worktree)
        assert candidate is not None
        sealed = await worktree.quarantine.seal(candidate, "hostile")
        for _ in range(2):  # a gate can do the same
            seen = await stage.look(worktree, sealed.commit, "cat work.txt; chmod 000 ../.. .. .")
            assert seen == "precious\n"
        assert await worktree.salvage(limits=Limits(), deadline_s=SLACK_S)
        await stage.must(worktree, "chmod 000 .. .")
    assert stage.repositories.directories() == []
    assert list((stage.home / "workspaces").iterdir()) == []
