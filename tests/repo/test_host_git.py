"""T-git-2: under strace, no git of the host is ever started in, at or on what an agent can write."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed (apt install strace)"),
]

ROOT = Path(__file__).parents[2]
_EXEC_OF_GIT = re.compile(r'execve\("[^"]*/git[^"/]*", \[')


def watch(root: Path, *words: str) -> list[str]:
    """Run the chain under strace and return its system calls, one a line."""
    trace = root / "trace"
    stage = root / "stage"
    stage.mkdir()
    stage.chmod(0o755)
    calls = "execve,chdir,fchdir,mount,openat"
    argv = ["strace", "-f", "-qq", "-v", "-y", "-s", "4096", "-e", f"trace={calls}", "-o", str(trace), "--"]
    argv += [sys.executable, "-m", "tests.repo.whole_chain", str(stage), *words]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    return trace.read_text(errors="replace").splitlines()


def offences(lines: list[str], agents: str) -> list[str]:
    """Return the starts of git that have to do with the agents' directory.

    Git inside a sandbox knows its worktree as /workspace, so a path of the host betrays a git of the host; a
    working directory is betrayed by the `chdir` of the process that is or becomes git.
    """
    inside: set[str] = set()
    found = []
    for line in lines:
        pid = line.split(" ", 1)[0]
        if re.search(r"chdir\(", line) and agents in line and "ENOENT" not in line:
            inside.add(pid)
        elif _EXEC_OF_GIT.search(line) and (agents in line or pid in inside):
            found.append(line[:300])
    return found


def test_no_git_of_the_host_comes_near_a_worktree(reachable_path: Path) -> None:
    lines = watch(reachable_path)
    agents = str(reachable_path / "stage" / "home" / "workspaces")
    hosts = [line for line in lines if _EXEC_OF_GIT.search(line) and f"GIT_DIR={reachable_path}" in line]
    inside = [line for line in lines if _EXEC_OF_GIT.search(line) and "GIT_DIR=/workspace/.git" in line]
    assert len(hosts) > 10
    assert len(inside) > 5
    assert offences(lines, agents) == []


def test_the_watch_sees_a_careless_host(reachable_path: Path) -> None:
    lines = watch(reachable_path, "careless")
    agents = str(reachable_path / "stage" / "home" / "workspaces")
    assert len(offences(lines, agents)) >= 2
