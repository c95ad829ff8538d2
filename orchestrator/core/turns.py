"""What an agent says and spends, turn by turn, and the words that go into the journal beside the events."""

from __future__ import annotations

from hashlib import sha256

from pydantic import Field

from orchestrator.core.event import AgentEvent
from orchestrator.core.model import Usage


class SayingEvent(AgentEvent):
    """A fact with words that are too long for the journal.

    They go into the table `messages`, in the same transaction; the event holds their SHA-256, in hex. They
    are there on the way into the journal only: what is read back has none.
    """

    content: str | None = Field(default=None, exclude=True, repr=False)
    content_hash: str | None = None


def said(content: str) -> dict[str, str]:
    """Return the two fields by which a `SayingEvent` carries these words."""
    encoded = content.encode("utf-8", "replace")
    return {"content": encoded.decode(), "content_hash": sha256(encoded).hexdigest()}


class AgentTurn(SayingEvent):
    """A turn ended; `text` is the tail of what the agent said. One that is not `ok` counts as not taken.

    Where it names its `prompt`, more turns may be needed for the answer, which `agent.phase` tells then; else
    the turn is the whole answer to the prompt of its own number. `usage` is what it cost: the `agent.usage`
    beside it counts. `content` is what was said to the model and by it, since the turn before.
    """

    name = "agent.turn"
    turn: int
    ok: bool = True
    stop_reason: str
    exit_code: int | None = None
    duration_ms: float
    text: str = ""
    prompt: int | None = None
    model: str | None = None
    usage: Usage | None = None


class AgentUsage(SayingEvent):
    """The agent spent this much since its last usage event; `content` is what came of its tool calls.

    Where it is `claimed`, it is the agent's own word: it counts for it and its task, and for nobody else.
    """

    name = "agent.usage"
    usage: Usage
    claimed: bool | None = None
