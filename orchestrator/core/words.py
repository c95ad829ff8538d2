"""What is said to an agent while it works, what it waits for, and how far it came with being seen to.

A message waits until the agent was told it and had answered; a concern is why the supervisor steps in, and a
step is what it did about it. Used by the model, the events and their folds.
"""

from __future__ import annotations

from enum import StrEnum

from orchestrator.core.moment import Moment
from orchestrator.core.spec import Wire

#: Characters of one message, and how many may wait for one agent.
MAX_MESSAGE = 16_000
MAX_WAITING = 8


class Message(Wire):
    """Something said to an agent, numbered from 1 for each; without a sender it is a nudge of ours."""

    number: int
    text: str
    sender: str | None = None


class Parked(Wire):
    """What a parked agent waits for, and until when, as far as that is known."""

    reason: str | None = None
    message: str
    until: Moment | None = None


class Concern(StrEnum):
    """Why an agent needs to be seen to."""

    #: Its program gave no sign of life since it was launched.
    BOOT = "boot"
    #: One prompt has been worked on for too long.
    TURN = "turn"
    #: There was no evidence of work for too long.
    STALL = "stall"
    #: It did the same again and again, and the same came of it.
    LOOP = "loop"


class Step(StrEnum):
    """What is done about a concern, one after the other."""

    NUDGE = "nudge"
    RESTART = "restart"
    END = "end"
