"""An answer of the Messages API as it comes in: server-sent events to one message, untouched.

Pure. The invariant: blocks are kept as they came, those of kinds that nobody here knows too, for they must go
back as they are; and what is no whole answer is a `ProviderFailure`, never a part of one. Caller: `upstream`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.message import CHARS_A_TOKEN, counts_of, given_of
from orchestrator.core.model import Usage
from orchestrator.core.trouble import ProviderFailure, Trouble, failure_of_event

Block = dict[str, Any]

MAX_ANSWER_BYTES = 64 * 1024 * 1024
#: Characters of malformed input that the model is shown again.
MAX_MALFORMED = 2000


@dataclass(frozen=True, slots=True)
class Message:
    """One answer, whole."""

    model: str
    content: list[Block]
    stop_reason: str
    usage: Usage
    #: Why it stopped, in words, where it was refused.
    why: str = ""
    #: By id, what came as the input of tool calls and is no JSON object.
    malformed: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What it says, without its thoughts."""
        return text_of(self.content)


def text_of(content: list[Block]) -> str:
    """Return the text of an answer's blocks."""
    return "\n".join(str(block.get("text", "")) for block in content if block.get("type") == "text")


class Incoming:
    """Takes the bytes of one stream of events."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._total = 0
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, Block] = {}
        self._inputs: dict[int, str] = {}
        self._counts: dict[str, int] = {}
        self._chars = 0
        self._over = False

    def feed(self, chunk: bytes) -> ProviderFailure | None:
        """Take the next bytes; return what is wrong: an error event, or what is no event at all."""
        self._total += len(chunk)
        if self._total > MAX_ANSWER_BYTES:
            return ProviderFailure(Trouble.SERVER_ERROR, f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        if b"\n" not in chunk:
            self._rest += chunk
            return None
        *lines, rest = (bytes(self._rest) + chunk).split(b"\n")
        self._rest = bytearray(rest)
        try:
            for line in lines:
                if line.startswith(b"data:"):
                    self._take(json.loads(line[5:]))
        except ProviderFailure as failure:
            return failure
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return ProviderFailure(Trouble.SERVER_ERROR, f"the answer is no message: {error!r:.200}")
        return None

    def message(self) -> Message:
        """Return the whole answer, at the end of the stream."""
        if not self._over:
            why = "the answer was cut off before its end"
            raise ProviderFailure(Trouble.NETWORK, why, usage=self.spent)
        malformed: dict[str, str] = {}
        content: list[Block] = []
        for index, block in sorted(self._blocks.items()):
            if index in self._inputs and not _has_input(block, self._inputs[index]):
                malformed[str(block.get("id"))] = self._inputs[index][:MAX_MALFORMED]
            if block.get("type") != "text" or block.get("text"):
                content.append(block)  # the API takes no empty text back
        stop = str(self._message.get("stop_reason") or "end_turn")
        if stop == "max_tokens" and content and content[-1].get("type") == "tool_use":
            malformed[str(content[-1]["id"])] = ""
        return Message(
            model=str(self._message.get("model", "")),
            content=content,
            stop_reason=stop,
            usage=Usage(**self._counts),
            why=_why(self._message.get("stop_details")),
            malformed=malformed,
        )

    @property
    def spent(self) -> Usage | None:
        """What an answer that breaks off has cost, as far as it is known; nothing, where it had not begun."""
        if not self._counts:
            return None
        words = max(self._counts.get("output_tokens", 0), -(-self._chars // CHARS_A_TOKEN))
        return Usage(**self._counts | {"output_tokens": words})

    def _take(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "message_start":
                self._message = dict(event["message"])
                self._counts |= counts_of(self._message.get("usage") or {})
            case "content_block_start":
                self._begin(event["index"], dict(event["content_block"]))
            case "content_block_delta":
                self._add(event["index"], event["delta"])
            case "message_delta":
                self._message |= event["delta"]
                self._counts |= counts_of(event.get("usage") or {})
            case "message_stop":
                self._over = True
            case "error":
                raise failure_of_event(event["error"])

    def _begin(self, index: int, block: Block) -> None:
        if type(index) is not int:
            raise TypeError("index")
        if block["type"] == "tool_use":
            if not all(isinstance(block[name], str) and block[name] for name in ("id", "name")):
                raise ValueError("a tool call without id or name")
            if not isinstance(block.setdefault("input", {}), dict):
                raise TypeError("input")
        self._blocks[index] = block

    def _add(self, index: int, delta: dict[str, Any]) -> None:
        block = self._blocks[index]
        if delta["type"] == "input_json_delta":
            self._inputs[index] = self._inputs.get(index, "") + delta["partial_json"]
            self._chars += len(delta["partial_json"])
            return
        if delta["type"] == "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
            return
        self._chars += sum(len(delta[name]) for name in ("text", "thinking") if name in delta)
        for name, value in delta.items():
            if name != "type":
                before = block.get(name)
                block[name] = before + value if isinstance(before, str) and isinstance(value, str) else value


def _has_input(block: Block, text: str) -> bool:
    """Give a tool call its input; return whether it was one."""
    given = given_of(text) if text.strip() else block.get("input") or {}
    block["input"] = given if isinstance(given, dict) else {}
    return isinstance(given, dict)


def _why(details: object) -> str:
    if not isinstance(details, dict):
        return ""
    said = (details.get("category"), details.get("explanation"))
    return ": ".join(str(word)[:300] for word in said if word)
