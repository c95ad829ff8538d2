"""A supervisor for the commands to speak to, and the commands as an operator calls them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kit.measured import measured, unmeasured
from tests.kit.service import Service


def with_json(arguments: tuple[str, ...]) -> list[str]:
    """Return the arguments with --json, before those of the agent's own command."""
    ours = arguments.index("--") if "--" in arguments else len(arguments)
    return [*arguments[:ours], "--json", *arguments[ours:]]


@dataclass(frozen=True)
class Operator:
    """Somebody at a shell on the supervisor's host, with its environment."""

    service: Service

    def environment(self, command: str) -> dict[str, str]:
        """Return the environment that a command is run in."""
        return {**unmeasured(self.service.env), **measured(command)}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *arguments],
            env={**self.environment(arguments[0]), **environment},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def json(self, *arguments: str, status: int = 0, **environment: str) -> dict[str, Any]:
        """Run a command with --json and return the one document that it printed."""
        done = self.run(*with_json(arguments), **environment)
        assert done.returncode == status, done.stderr + done.stdout
        assert done.stderr == ""
        return dict(json.loads(done.stdout))

    def problem(self, *arguments: str, status: int = 1, **environment: str) -> dict[str, Any]:
        """Run a command with --json and return the problem that it ended with."""
        done = self.run(*with_json(arguments), **environment)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        return dict(json.loads(done.stderr))

    def open(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that goes on."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *arguments],
            env=self.environment(arguments[0]),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Return a running supervisor that the tests of this module share; each uses tasks of its own."""
    root = Path(tempfile.mkdtemp(prefix="cli-", dir=os.environ["TMPDIR"]))
    with Service(root) as running:
        yield running
    shutil.rmtree(root)


@pytest.fixture
def operator(service: Service) -> Operator:
    """Return an operator of the shared supervisor."""
    return Operator(service)
