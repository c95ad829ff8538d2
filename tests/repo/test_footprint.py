"""The names that an agent has changed, seen while it works, whatever it has made of its directory."""

from __future__ import annotations

import pytest

from orchestrator.repo.footprint import footprint
from tests.repo.stage import Stage


async def test_changed_and_removed_files_of_the_base_are_seen_and_new_ones_are_not(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        assert footprint(worktree.workspace, 100) == frozenset()
        await stage.must(worktree, "echo x >> src/app.sh; rm README.md; echo n > new; mkdir d; echo n > d/n")
        assert footprint(worktree.workspace, 100) == {"src/app.sh", "README.md"}


@pytest.mark.parametrize(
    "script",
    [
        "rm -rf src; ln -s / src; echo x > README.md",
        "chmod 000 src; echo x > README.md",
        "rm -rf src; mkfifo src; echo x > README.md",
        "mkdir many; (cd many; seq 5000 | xargs touch); echo x > README.md",
    ],
)
async def test_nothing_is_followed_opened_or_walked_without_end(stage: Stage, script: str) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, script)
        assert footprint(worktree.workspace, 100) <= {"README.md", "src", "src/app.sh"}
