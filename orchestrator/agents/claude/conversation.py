"""What was said between an agent and its model, as it must be sent again, and as the journal keeps it.

Pure. The invariant: the conversation is a function of what the journal has of it, what was left out for want
of room included, so that a restart sends the same bytes; each call of a tool has its result in the next
message; and nothing that was said by the model is changed. Caller: `runtime`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from orchestrator.agents.claude.incoming import Block, Message, text_of

#: From so many tokens on the oldest is left out, until about so many are left.
TRIM_TOKENS = 130_000
KEPT_TOKENS = 65_000
#: Messages at the end that are never touched.
KEPT_MESSAGES = 6
#: Bytes for one token, at least: for what was not counted yet.
BYTES_A_TOKEN = 2

CLEARED = "[this result was left out for want of room; call the tool again if you need it]"
DROPPED = "[what was done and said in between is left out here for want of room]"
_SHORT = 200
_MARK = {"type": "ephemeral"}


class Conversation:
    """Messages, and what goes into the next one."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._results: list[Block] = []
        self._said: list[Block] = []
        self._tokens = 0
        #: The last message of the agent's inbox that is among what was or will be said.
        self.told = 0
        #: The prompt that is being answered, and why the last answer stopped.
        self.prompt = 0
        self.stop_reason = ""
        self.text = ""
        #: Calls of the last answer that have no result yet, and what of them is no input.
        self.calls: list[Block] = []
        self.malformed: dict[str, str] = {}

    @classmethod
    def restored(cls, contents: Iterable[str]) -> Conversation:
        """Return the conversation that the journal tells of."""
        made = cls()
        for content in contents:
            told = json.loads(content)
            if "results" in told:
                made.take_results(told["results"])
            else:
                made.take(told)
        return made

    @property
    def waits(self) -> bool:
        """Whether something was said, or came of a call, that the model has not heard."""
        return bool(self._results or self._said)

    def has(self, prompt: int, message: int) -> bool:
        """Whether this prompt was said, and all up to this message after it."""
        return self.prompt == prompt and self.told >= message

    def say(self, text: str, message: int = 0) -> None:
        """Add to what the model is told next; `message` is the last that the text tells, if any."""
        self.told = max(self.told, message)
        self._said.append({"type": "text", "text": text.encode("utf-8", "replace").decode()})

    def entry(self, message: Message, prompt: int) -> dict[str, Any]:
        """Return what the journal keeps of an answer, and of what was said since the one before."""
        return {
            "said": self._said,
            "answer": message.content,
            "stop": message.stop_reason,
            "malformed": message.malformed,
            "tokens": message.usage.tokens,
            "prompt": prompt,
            "message": self.told,
        }

    def take(self, entry: dict[str, Any]) -> None:
        """Go on by an answer."""
        self._append("user", [*self._results, *entry["said"]])
        self._results, self._said = [], []
        content = entry["answer"]
        if any(block.get("type") not in {"thinking", "redacted_thinking"} for block in content):
            self._append("assistant", content)  # the API takes none back that only thinks
        self.prompt, self.stop_reason, self.malformed = entry["prompt"], entry["stop"], entry["malformed"]
        self.calls = [block for block in content if block.get("type") == "tool_use"]
        self.text = text_of(content)
        self.told = max(self.told, entry.get("message", 0))  # earlier versions told none
        self._tokens = entry["tokens"]
        if self._tokens > TRIM_TOKENS or self.stop_reason == "model_context_window_exceeded":
            self._trim()

    def take_results(self, results: list[Block]) -> None:
        """Go on by what came of the calls."""
        self._results, self.calls = results, []

    def input_tokens(self, beside: int) -> int:
        """Return an upper estimate of the next prompt; `beside` are the bytes that were never counted."""
        fresh = len(json.dumps([self._results, self._said]))
        return self._tokens + (fresh + (0 if self._tokens else beside)) // BYTES_A_TOKEN

    def messages(self) -> list[dict[str, Any]]:
        """Return all messages for the next request, the last two of ours marked for the provider's cache."""
        told = list(self._messages)
        if fresh := [*self._results, *self._said]:
            _join(told, "user", fresh)
        ours = [place for place, message in enumerate(told) if message["role"] == "user"]
        for place in ours[-2:]:
            *before, last = told[place]["content"]
            told[place] = {"role": "user", "content": [*before, {**last, "cache_control": _MARK}]}
        return told

    def _append(self, role: str, content: list[Block]) -> None:
        if content:
            _join(self._messages, role, content)

    def _trim(self) -> None:
        """Leave out the oldest: results of tools first, then whole exchanges, never what was asked."""
        scale = self._tokens / max(1, len(json.dumps(self._messages)))
        over = (self._tokens - KEPT_TOKENS) / scale
        for place, message in enumerate(self._messages[:-KEPT_MESSAGES]):
            if over > 0 and message["role"] == "user":
                shorter = {"role": "user", "content": [_cleared(block) for block in message["content"]]}
                over -= len(json.dumps(message)) - len(json.dumps(shorter))
                self._messages[place] = shorter
        while over > 0 and len(self._messages) > KEPT_MESSAGES + 3:
            first, answer, ours, *rest = self._messages
            asked = [block for block in ours["content"] if block.get("type") == "text"]
            marked = any(block.get("text") == DROPPED for block in first["content"])
            note = [] if marked else [{"type": "text", "text": DROPPED}]
            kept = {"role": "user", "content": [*first["content"], *note, *asked]}
            over -= len(json.dumps([answer, ours])) - len(json.dumps([*note, *asked]))
            self._messages = [kept, *rest]
        self._tokens = int(len(json.dumps(self._messages)) * scale)


def _join(messages: list[dict[str, Any]], role: str, content: list[Block]) -> None:
    """Add a message; two of the same role in a row become one."""
    if messages and messages[-1]["role"] == role:
        messages[-1] = {"role": role, "content": [*messages[-1]["content"], *content]}
    else:
        messages.append({"role": role, "content": list(content)})


def _cleared(block: Block) -> Block:
    if block.get("type") == "tool_result" and len(str(block.get("content", ""))) > _SHORT:
        return {**block, "content": CLEARED}
    return block
