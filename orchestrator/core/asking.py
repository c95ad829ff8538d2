"""A request to a model and its answer, as far as whoever pays for them has to know.

Made by whoever asks a model (the runtimes, the door, the reviewer); read by the meter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.core.usage import Usage


@dataclass(frozen=True, slots=True)
class Request:
    """What a request to a model may cost at most: known before it is made."""

    model: str
    #: An upper estimate of the prompt, cached or not.
    input_tokens: int
    #: The most that the answer may have.
    max_tokens: int
    #: The most that the prompt can come to, where its author may mean harm; 0 where the estimate holds.
    most_input_tokens: int = 0
    #: A tool in it that the provider charges for by itself, and that no table of prices has.
    unpriced_tool: str | None = None
    #: Tells what it has cost up to now, where it is cut off in flight; None where nobody was told anything.
    so_far: Callable[[], Usage | None] = field(default=lambda: None, compare=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered, and what it cost; money is the meter's to know."""

    model: str
    stop_reason: str
    #: Of `Usage` the four counts of tokens, as the provider reported them.
    usage: Usage
    #: What the model said, for people.
    text: str
    duration_ms: float
    #: JSON of what was said to the model since its last answer, and of this answer: see `Session.recall`.
    content: str | None = None
