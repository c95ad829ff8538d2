"""A real agent of the Agent Client Protocol: claude-agent-acp from npm, over the real Claude Code."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kit.claude_code import claude_binary

#: Where `.ci/acp-agent` puts it.
PLACE = Path(__file__).parents[2] / ".venv/acp-agent"
PROGRAM = PLACE / "node_modules/@agentclientprotocol/claude-agent-acp/dist/index.js"


def acp_agent() -> tuple[tuple[str, ...], dict[str, str], str]:
    """Return its command, its environment, and what SANDBOX_READ_ONLY has to show; skips without it."""
    if not PROGRAM.exists() or shutil.which("node") is None:
        pytest.skip("claude-agent-acp is not installed: .ci/acp-agent needs npm and its registry")
    claude = claude_binary()
    return (
        ("node", str(PROGRAM)),
        {"CLAUDE_CODE_EXECUTABLE": str(claude)},
        f"{PLACE}:{claude.parent}",
    )
