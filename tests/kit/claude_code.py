"""The real Claude Code, as tests run it: the program in the wheel of its SDK, with a home of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kit.messages_api import ScriptedApi

RUN_S = 50.0


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended: its exit status, the lines of its stream as JSON, what it said on stderr."""

    status: int
    lines: list[dict[str, Any]]
    said: str

    @property
    def result(self) -> dict[str, Any]:
        """The last line of the stream, which says how it went."""
        assert self.lines, self.said
        return self.lines[-1]


def claude_binary() -> Path:
    """Return the program; skips the test where this Python has none."""
    found = importlib.util.find_spec("claude_agent_sdk")
    path = Path(found.origin or "").parent / "_bundled" / "claude" if found else Path("nowhere")
    if not path.exists():
        pytest.skip("claude-agent-sdk has no program for this host")
    return path


def run_claude(api: ScriptedApi, root: Path, prompt: str, *more: str, bare: bool = True, **env: str) -> Ran:
    """Let it do what the prompt says in `root / "work"`, with a home of its own and no sandbox.

    Bare, it starts faster, sends 4 kB instead of 76, and offers Bash, Edit and Read alone.
    """
    home, work = root / "home", root / "work"
    home.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            str(claude_binary()),
            *("-p", prompt, *(["--bare"] if bare else []), "--output-format", "stream-json", "--verbose"),
            *("--dangerously-skip-permissions", *more),
        ],
        cwd=work,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TMPDIR": str(home),
            "LANG": "C.UTF-8",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_ERROR_REPORTING": "1",
            **({"IS_SANDBOX": "1"} if os.getuid() == 0 else {}),  # else it refuses to work for root
            **api.env(),
            **env,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_S,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Ran(done.returncode, lines, done.stderr)
