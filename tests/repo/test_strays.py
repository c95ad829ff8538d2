"""What a killed supervisor's git left running is ended, with what it starts while it ends; hooks at once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.repo.git import OWNER
from orchestrator.repo.strays import end_strays
from tests.kit.processes import fresh_mark, marked

_STARTS_ANOTHER = "trap 'setsid sleep 3600 >/dev/null & exit' TERM; echo ready; sleep 3600 & wait"
_IGNORES = "trap '' TERM; echo ready; while :; do sleep 3600; done"
_TELLS = "trap 'touch asked; exit' TERM; echo ready; sleep 3600 & wait"


@pytest.mark.parametrize("program", ["git-receive-pack", "pre-receive"])
@pytest.mark.parametrize("script", [_STARTS_ANOTHER, _IGNORES, _TELLS])
async def test_strays_are_ended_with_what_they_start_meanwhile_and_git_is_asked_first(
    tmp_path: Path, script: str, program: str
) -> None:
    root = tmp_path / fresh_mark("stray")
    env = {**os.environ, OWNER: f"{root}/a"}
    shell = tmp_path / program
    shell.symlink_to("/bin/sh")
    argv = ["setsid", str(shell), "-c", script]
    with subprocess.Popen(argv, env=env, cwd=tmp_path, stdout=subprocess.PIPE) as stray:  # noqa: ASYNC220 - no pipe fills
        assert stray.stdout is not None
        assert stray.stdout.readline() == b"ready\n"
        assert await end_strays(tmp_path / "other") == 0
        assert await end_strays(root) >= 2
    assert marked(root.name) == []
    assert (tmp_path / "asked").exists() is (script == _TELLS and program.startswith("git"))
    assert await end_strays(root) == 0
