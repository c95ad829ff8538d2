"""What Claude Code finds in its environment, alone or below another program: patience, quiet, one model.

The invariant: it waits for an answer of the door for as long as that takes, tells nobody anything, and asks
for no model but the agent's own. Callers: `claude_launch`, and `acp.model` for the agents that run it.
"""

from __future__ import annotations

#: The most that its timers take: almost 25 days. The door keeps the deadlines, and may park for hours.
_FOR_EVER_MS = str(2**31 - 1)
_QUIET = {
    "API_TIMEOUT_MS": _FOR_EVER_MS,
    # These give up after some minutes without a byte; the door says nothing while it waits.
    "API_FORCE_IDLE_TIMEOUT": "0",
    "CLAUDE_ENABLE_BYTE_WATCHDOG": "0",
    "CLAUDE_ENABLE_STREAM_WATCHDOG": "0",
    # The door tries again; a stream that was cut in the middle is asked for again as a whole answer.
    "CLAUDE_CODE_MAX_RETRIES": "0",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_CRON": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_DISABLE_TERMINAL_TITLE": "1",
    # What it would ask a model for on its own, for a person who sits there.
    "CLAUDE_CODE_ENABLE_AWAY_SUMMARY": "false",
    "CLAUDE_CODE_ENABLE_PROMPT_SUGGESTION": "false",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
    "IS_SANDBOX": "1",
}
_MODELS = (
    "ANTHROPIC_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL",
)


def claude_settings(model: str | None) -> dict[str, str]:
    """Return the variables; without a model, what it asks for is its own choice."""
    one = dict.fromkeys(_MODELS, model) if model else {}
    return {**_QUIET, **one, "ANTHROPIC_API_KEY": "none"}
