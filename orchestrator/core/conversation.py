"""What the API answers about what is said to an agent and by it; beside `core.answer`, and like it.

The shapes of `POST /agents/:id/message` and `GET /agents/:id/transcript`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints

from orchestrator.core.answer import Answer
from orchestrator.core.moment import Moment
from orchestrator.core.spec import Wire
from orchestrator.core.usage import Usage
from orchestrator.core.words import MAX_MESSAGE


class Saying(Wire):
    """The body of a message: what the agent is to be told."""

    text: Annotated[str, StringConstraints(max_length=MAX_MESSAGE, pattern=r"^[^\x00]*[^\x00\s][^\x00]*$")]


class Said(Answer):
    """A message is durable and waits for its agent; an `agent.message` tells when it was heard."""

    agent_id: str
    #: Its number among the agent's messages, from 1.
    message: int
    status: str = "waiting"


class TranscriptTurn(Answer):
    """One turn, or what came of its tools; `content` is what was said, as far as it was kept."""

    seq: int
    time: Moment
    kind: Literal["turn", "tools"]
    #: What follows is empty where it is no turn, but for `usage` and `content`.
    turn: int | None = None
    #: Which prompt it is part of the answer to.
    prompt: int | None = None
    model: str | None = None
    stop_reason: str | None = None
    exit_code: int | None = None
    duration_ms: float = 0.0
    usage: Usage = Usage()
    #: The end of what the agent said.
    text: str = ""
    content: JsonValue = None


class Transcript(Answer):
    """A page of what was said, oldest first; `next` is the `after` of the next page, null on the last."""

    agent_id: str
    turns: tuple[TranscriptTurn, ...] = Field(default=())
    next: str | None = None
