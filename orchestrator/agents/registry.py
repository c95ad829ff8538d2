"""The runtimes of this process, by name, made from its settings.

The invariant: a name that `find` accepts has a runtime behind it that works. Made by `assembly`; called by
`supervise.desk` when a task is submitted, and by `supervise.run`.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.agents.acp.runtime import AcpRuntime
from orchestrator.agents.base import Runtime
from orchestrator.agents.claude.runtime import ClaudeRuntime
from orchestrator.agents.claude_cli import ClaudeCli, Program
from orchestrator.agents.claude_code import ClaudeCodeRuntime
from orchestrator.agents.command import CommandRuntime
from orchestrator.agents.live_terminal import LiveTerminal
from orchestrator.agents.models import ModelAccess
from orchestrator.agents.reaching import PROVIDER_URL
from orchestrator.agents.terminal import TerminalRuntime
from orchestrator.agents.upstream import Upstream
from orchestrator.config import Settings
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import RuntimeUnknown


class Runtimes:
    """What a task can name as its runtime."""

    def __init__(self, runtimes: Sequence[Runtime], *, default: str = "command") -> None:
        """Take the runtimes, and the name of the one for tasks that bring no program of their own."""
        self._by_name = {runtime.name: runtime for runtime in runtimes}
        self._default = default
        self._terminals = [runtime.live for runtime in runtimes if isinstance(runtime, TerminalRuntime)]

    def default_name(self, spec: TaskSpec) -> str:
        """Return the name of the runtime that the task asks for, or of the one that it gets."""
        return spec.options.runtime or ("command" if spec.options.command else self._default)

    def find(self, name: str) -> Runtime:
        """Return the runtime of that name, or raise `RuntimeUnknown` with the names that there are."""
        runtime = self._by_name.get(name)
        if runtime is None:
            known = ", ".join(sorted(self._by_name))
            raise RuntimeUnknown(f"options.runtime: {name!r} is no runtime of this version (known: {known})")
        return runtime

    def keeps_running(self, name: str) -> bool:
        """Return whether its program runs on while a candidate is collected and judged."""
        return isinstance(self._by_name.get(name), TerminalRuntime)

    def terminal(self, agent_id: str) -> LiveTerminal | None:
        """Return the agent's terminal, while its program lives."""
        return next((live[agent_id] for live in self._terminals if agent_id in live), None)


def make_runtimes(settings: Settings | None = None, own: Program | None = None) -> Runtimes:
    """Return the runtimes that these settings allow; without settings, those that need none.

    `own` is the Claude Code that the agents' image has.
    """
    if settings is None:
        return Runtimes([CommandRuntime(), TerminalRuntime(), AcpRuntime()])
    upstream = Upstream(settings.anthropic_base_url or PROVIDER_URL, settings.claude_api_key)
    access = ModelAccess(upstream, settings.claude_model, settings.claude_models)
    claude = ClaudeRuntime(access)
    claude_code = ClaudeCodeRuntime(
        ClaudeCli(settings.claude_code_path, settings.sandbox_path, own=own), access
    )
    acp = AcpRuntime(access, allow=settings.agent_permissions == "allow")
    default = "command"
    if access.has_key:
        default = claude_code.name if claude_code.found() else claude.name
    return Runtimes([CommandRuntime(), TerminalRuntime(), claude, claude_code, acp], default=default)
