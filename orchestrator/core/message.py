"""What a model's answer says and costs, folded from the events of its stream or taken from its whole body.

The invariant: whatever the provider sent, a `Message` is bounded by it and holds only what was said;
what is no answer of the Messages API is a `ValueError`. Called by the door; `claude` counts by it, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from orchestrator.core.model import NO_USAGE, Usage

#: Characters that a token stands for at least, where nobody has counted the tokens.
CHARS_A_TOKEN = 3
#: Levels of what a model gives a tool.
MAX_DEPTH = 100
#: The counts of tokens as the provider calls them, and as we do.
_COUNTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}
#: Of what was written to a cache, the count of what stays there for an hour: it is dearer.
_FOR_AN_HOUR = "ephemeral_1h_input_tokens"
#: The deltas of a block, and where in it each adds to.
_DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


def counts_of(told: Mapping[str, Any]) -> dict[str, int]:
    """Return what an answer's `usage` counts, by our names, without what it does not count.

    Raises `TypeError` where something in it is no count.
    """
    written = told.get("cache_creation") or {}
    if not isinstance(written, Mapping):
        raise TypeError("cache_creation")
    counts = {ours: told.get(theirs) for theirs, ours in _COUNTS.items()}
    counts["cache_write_1h_tokens"] = written.get(_FOR_AN_HOUR)
    for name, count in counts.items():
        if count is not None and (type(count) is not int or not 0 <= count < 1 << 40):
            raise TypeError(name)
    return {name: count for name, count in counts.items() if count is not None}


@dataclass(slots=True)
class _Block:
    """A part of the answer while it grows."""

    first: dict[str, Any]
    pieces: dict[str, list[str]] = field(default_factory=dict)

    def add(self, delta: Mapping[str, Any]) -> int:
        """Take in a delta; return its characters."""
        name = _DELTAS.get(delta["type"])
        if name is None:
            self.first |= {key: value for key, value in delta.items() if key == "signature"}
            return 0
        piece = delta[name]
        if not isinstance(piece, str):
            raise TypeError(name)
        self.pieces.setdefault(name, []).append(piece)
        return len(piece)

    def whole(self) -> dict[str, Any]:
        """Return the block as it would stand in an answer that is no stream."""
        grown = {name: "".join(pieces) for name, pieces in self.pieces.items()}
        given = grown.pop("partial_json", None)
        begun = {name: str(self.first.get(name) or "") for name in grown}
        block = {**self.first, **{name: begun[name] + text for name, text in grown.items()}}
        if given:
            block["input"] = given_of(given)
        return block


@dataclass(slots=True)
class Message:
    """An answer, as far as it has come."""

    model: str = ""
    stop_reason: str = ""
    usage: Usage = NO_USAGE
    #: Whether its last event has come.
    complete: bool = False
    _blocks: dict[int, _Block] = field(default_factory=dict)
    _chars: int = 0

    @classmethod
    def of_body(cls, body: bytes) -> Self:
        """Return the answer that came whole; raises `ValueError` where it is none."""
        answer = cls()
        try:
            message = json.loads(body)
            answer._begin(message)
            answer._count(message["usage"])
            answer._blocks = {
                place: _Block({"type": block["type"], **block})
                for place, block in enumerate(message["content"])
            }
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"no answer of a model: {error!r:.200}") from error
        answer.stop_reason, answer.complete = str(message.get("stop_reason") or ""), True
        return answer

    def add(self, event: Mapping[str, Any]) -> str | None:
        """Take in an event; return the type of the block that it closes, if it does.

        Raises `ValueError` where such an event cannot come here. Events of types yet unknown say nothing.
        """
        try:
            return self._add(event)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"an event that cannot come here: {error!r:.200}") from error

    def _add(self, event: Mapping[str, Any]) -> str | None:
        match event["type"]:
            case "message_start":
                self._begin(event["message"])
                self._count(event["message"]["usage"])
            case "content_block_start":
                block = dict(event["content_block"])
                self._blocks[int(event["index"])] = _Block({"type": str(block["type"]), **block})
            case "content_block_delta":
                self._chars += self._blocks[int(event["index"])].add(event["delta"])
            case "content_block_stop":
                return str(self._blocks[int(event["index"])].first["type"])
            case "message_delta":
                self.stop_reason = str(event["delta"].get("stop_reason") or self.stop_reason)
                self._count(event.get("usage") or {})
            case "message_stop":
                self.complete = bool(self.model)
        return None

    def _begin(self, message: Mapping[str, Any]) -> None:
        if message["type"] != "message" or not isinstance(message["model"], str):
            raise TypeError("message")
        self.model = message["model"][:200]

    def _count(self, counts: Mapping[str, Any]) -> None:
        """Take the counts over: each is what it is by now, not what was added."""
        self.usage = self.usage.model_copy(update=counts_of(counts))

    @property
    def spent(self) -> Usage:
        """What it cost so far: of an answer that was cut, no count of its own words has come yet."""
        if self.complete or not self.model:
            return self.usage
        words = max(self.usage.output_tokens, -(-self._chars // CHARS_A_TOKEN))
        return self.usage.model_copy(update={"output_tokens": words})

    @property
    def content(self) -> list[dict[str, Any]]:
        """The blocks, in their order."""
        return [self._blocks[place].whole() for place in sorted(self._blocks)]

    @property
    def text(self) -> str:
        """What it says to people."""
        return "\n".join(str(block.get("text", "")) for block in self.content if block["type"] == "text")


def given_of(text: str) -> Any:  # noqa: ANN401 - a model's JSON
    """Return what a model gives a tool; the text itself where that is no JSON, or nested to no purpose."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if is_deep(given) else given


def is_deep(value: object) -> bool:
    """Say whether something is nested so deeply that to handle it may take more stack than there is."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)
