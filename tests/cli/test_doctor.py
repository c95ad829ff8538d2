"""The doctor says what works on a host and what does not, each with the fix."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cli import checks
from orchestrator.config import load_settings
from sandbox.base import User

ROOT = Path(__file__).parents[2]


def examine(home: Path, **environment: str) -> tuple[int, dict[str, Any]]:
    """Run the doctor and return its exit status and its checks by name."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "doctor", "--json"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TMPDIR": os.environ["TMPDIR"],
            "PYTHONPATH": str(ROOT),
            "ORCHESTRATOR_HOME": str(home / "state"),
            "ORCHESTRATOR_PORT": str(free_port()),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["ok"] is (done.returncode == 0)
    return done.returncode, {check["name"]: check for check in found["checks"]}


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


def test_host_that_runs_these_tests_is_fit(reachable_path: Path) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap")
    status, found = examine(reachable_path)
    assert status == 0, found
    assert found["sandbox"]["detail"].startswith("bubblewrap, agents run as ")
    assert found["port"]["state"] == "ok"
    assert "git" in found["tools"]["detail"]


def test_broken_path_is_found_with_its_fix(reachable_path: Path) -> None:
    status, found = examine(reachable_path, PATH="/nonexistent")
    assert status == 1
    assert found["git"]["state"] == "missing"
    assert "apt install git" in found["git"]["fix"]


def test_git_that_is_too_old_or_broken_is_found(reachable_path: Path) -> None:
    fake = reachable_path / "git"
    for script, says in (("echo git version 2.20.1", "2.30"), ("exit 3", "anew")):
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
        status, found = examine(reachable_path, PATH=f"{reachable_path}:{os.environ['PATH']}")
        assert status == 1
        assert says in found["git"]["fix"]


def test_port_that_is_taken_is_found(reachable_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        status, found = examine(reachable_path, ORCHESTRATOR_PORT=str(taken.getsockname()[1]))
    assert status == 1
    assert "ORCHESTRATOR_PORT" in found["port"]["fix"]


def test_bad_and_unused_settings_are_named(reachable_path: Path) -> None:
    status, found = examine(reachable_path, MAX_CONCURRENT_AGENTS="many")
    assert status == 1
    assert "MAX_CONCURRENT_AGENTS='many'" in found["settings"]["detail"]
    dead = {"GITEA_URL": "http://localhost:8000", "COORDINATOR_URL": "http://localhost:1"}
    _, found = examine(reachable_path, **dead)
    assert found["coordinator"]["state"] == "warning"
    assert "nothing lands" in found["coordinator"]["fix"]
    assert found["setting"]["detail"] == "GITEA_URL is set"


def test_missing_sandbox_is_found_and_trusted_code_is_warned_about(reachable_path: Path) -> None:
    status, found = examine(reachable_path, SANDBOX_BACKEND="podman")
    assert status == 1
    assert found["sandbox"]["state"] == "missing"
    status, found = examine(reachable_path, SANDBOX_ENABLED="false")
    assert status == 0, found
    assert found["isolation"]["state"] == "warning"


def test_report_for_a_person_ends_with_a_verdict(reachable_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "doctor"],
        env={"PATH": "/nonexistent", "HOME": str(reachable_path), "PYTHONPATH": str(ROOT), "PORT": "0"},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 1
    assert "MISSING  git" in done.stdout
    assert "-> install git" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("must be put right")


def test_state_that_agents_cannot_reach_is_found(reachable_path: Path) -> None:
    home = reachable_path / "closed" / "home"
    home.mkdir(parents=True)
    (reachable_path / "closed").chmod(0o700)
    settings = load_settings({"ORCHESTRATOR_HOME": str(home), "HOME": "/"}, uid=os.getuid())
    stranger = User(64_000, 64_000, "stranger")
    found = {check.name: check for check in checks.state_directory(settings, stranger)}
    assert found["state"].state == "ok"
    assert found["reach"].state == "missing"
    assert str(reachable_path / "closed") in found["reach"].fix
    (reachable_path / "closed").chmod(0o711)
    home.chmod(0o711)
    assert "reach" not in {check.name for check in checks.state_directory(settings, stranger)}


def test_state_under_a_file_is_found(reachable_path: Path) -> None:
    (reachable_path / "file").write_text("")
    settings = load_settings({"ORCHESTRATOR_HOME": str(reachable_path / "file" / "home")}, uid=os.getuid())
    (found,) = checks.state_directory(settings, None)
    assert found.state == "missing"
    assert "ORCHESTRATOR_HOME" in found.fix


def test_limits_that_the_kernel_does_not_keep_are_named() -> None:
    backend: Any = SimpleNamespace(
        name="bubblewrap",
        tier="pid-namespace",
        layered=False,
        enforced=frozenset({"pids"}),
        watched=frozenset({"memory_mb", "disk_mb"}),
    )
    found = {
        check.name: check
        for check in checks.limits(backend, {"overlay": "Linux is too old", "cgroup": "none is ours"})
    }
    assert found["overlay"].state == "warning"
    assert "Linux is too old" in found["overlay"].detail
    assert (
        found["limits"].detail
        == "the kernel enforces those of processes; memory, disk are measured; not of CPU"
    )
    assert found["kill"].detail == "by pid-namespace; no cgroup: none is ours"


def test_secrets_that_are_too_short_to_be_looked_for_are_named(reachable_path: Path) -> None:
    settings = load_settings({"ORCHESTRATOR_HOME": str(reachable_path), "GITHUB_TOKEN": "short"}, uid=1000)
    [check] = checks.short_secrets(settings)
    assert (check.state, check.detail) == ("warning", "GITHUB_TOKEN is too short to be looked for")
