"""The words by which an agent is steered while it works: messages of its operators, as a prompt.

Who may operate agents may tell them what to do, so these words are no data: they are not fenced. Callers:
`supervise.run`, `supervise.liveness`, and the runtimes that pass messages on in the middle of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.agents.base import Inbox
from orchestrator.core.text import cleaned, escaped
from orchestrator.core.words import Concern, Message

#: Who speaks where no sender is named.
OURSELVES = "the orchestrator"


_ADVICE = {
    Concern.BOOT: "Begin with your work.",
    Concern.TURN: "Bring the work to an end that can be judged: leave what is done, say what is not.",
    Concern.STALL: "If you wait for something, do not: nobody will answer. Go on with what can be done.",
    Concern.LOOP: "It will not come out otherwise. Step back, say what you know, and try another way.",
}


def nudge(concern: Concern, why: str) -> str:
    """Return what is said to an agent that should get going again."""
    return f"You are watched by a program, which noticed: {why}. {_ADVICE[concern]}"


def news_of(inbox: Inbox, told: int) -> tuple[Message, ...]:
    """Return what waits in the inbox past the last message that the agent was told, oldest first."""
    return tuple(message for message in inbox.pending() if message.number > told)


async def hear(inbox: Inbox, told: int) -> None:
    """Have it journaled that the agent was told all up to this message."""
    heard = [message for message in inbox.pending() if message.number <= told]
    if heard:
        await inbox.heard(heard[-1])


def message_prompt(messages: Sequence[Message]) -> str:
    """Return the messages as one text for the agent, each with who sent it."""
    parts = []
    for message in messages:
        sender = escaped(message.sender) if message.sender else OURSELVES
        parts += [f"# Message {message.number}, from {sender}", "", cleaned(message.text).strip("\n"), ""]
    return "\n".join(parts)
