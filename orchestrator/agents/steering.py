"""The words by which an agent is steered while it works: messages of its operators, as a prompt.

Who may operate agents may tell them what to do, so these words are no data: they are not fenced. Callers:
`supervise.mailbox`, and the runtimes that pass messages on in the middle of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.text import cleaned, escaped
from orchestrator.core.words import Message

#: Who speaks where no sender is named.
OURSELVES = "the orchestrator"


def message_prompt(messages: Sequence[Message]) -> str:
    """Return the messages as one text for the agent, each with who sent it."""
    parts = []
    for message in messages:
        sender = escaped(message.sender) if message.sender else OURSELVES
        parts += [f"# Message {message.number}, from {sender}", "", cleaned(message.text).strip("\n"), ""]
    return "\n".join(parts)
