"""Take one agent's work the whole way, for a test that watches the system calls of the process that does it.

Run as `python -m tests.repo.whole_chain DIRECTORY [careless]`; `careless` also does what a host must not.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import trio

from sandbox.base import Layers, Limits
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.probe import default_user
from tests.repo.stage import Stage


async def carry_out(root: Path, *, careless: bool) -> None:
    """Spawn, collect, judge, check, land, salvage, show, clean up, and once more from a hostile state."""
    stage = Stage(root, BubblewrapBackend(default_user()))
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "echo x > x; git add x; git commit -qm x; echo y > y")
        commit = await stage.deliver(worktree)
        await stage.look(worktree, commit, "cat x y")
        await stage.must(worktree, "rm -rf .git; echo z > z")
        await stage.collect(worktree)
        await worktree.salvage(limits=Limits(), deadline_s=20)
        if careless and isinstance(worktree.workspace, Layers):
            upper = worktree.workspace.upper
            subprocess.run(["git", "status"], cwd=upper, check=False, capture_output=True)  # noqa: ASYNC221
            argv = ["git", f"--git-dir={upper}/.git", "status"]
            subprocess.run(argv, check=False, capture_output=True)  # noqa: ASYNC221
    await stage.repositories.diff(stage.url, stage.main, "refs/salvage/a1", max_bytes=10_000)


if __name__ == "__main__":
    trio.run(lambda: carry_out(Path(sys.argv[1]), careless="careless" in sys.argv))
