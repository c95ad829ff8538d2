"""What the real API refuses, and so does this one: a client that is wrong shall find out here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.kit.messages.wire import signature

#: A status and the message of the refusal.
Wrong = tuple[int, str]
Blocks = list[dict[str, Any]]


def wrong_with_key(headers: Mapping[str, str], keys: Sequence[str] | None) -> Wrong | None:
    """Say what is wrong with who asks; any key will do unless `keys` names those that do."""
    given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    if not given:
        return 401, "x-api-key header is required"
    if keys is not None and given not in keys:
        return 401, "invalid x-api-key"
    return None


def wrong_with_request(
    headers: Mapping[str, str], body: object, models: Sequence[str] | None, *, counts: bool
) -> Wrong | None:
    """Say what is wrong with a request for a message, or for its tokens to be counted."""
    if "anthropic-version" not in headers:
        return 400, "anthropic-version: header is required"
    if not isinstance(body, dict):
        return 400, "The request body is not valid JSON"
    needed = ("model", "messages") if counts else ("model", "max_tokens", "messages")
    for name in needed:
        if name not in body:
            return 400, f"{name}: Field required"
    if models is not None and body["model"] not in models:
        return 404, f"model: {body['model']}"
    return _wrong_with_messages(body["messages"])


def _wrong_with_messages(messages: object) -> Wrong | None:
    if not isinstance(messages, list) or not messages:
        return 400, "messages: at least one message is required"
    waiting: set[str] = set()  # the calls of the assistant's last message, which need results
    for place, message in enumerate(messages):
        if message.get("role") not in {"user", "assistant"}:
            continue  # newer models take system messages in between
        if not message["content"] and place + 1 < len(messages):
            return 400, f"messages.{place}: all messages must have non-empty content"
        blocks = message["content"] if isinstance(message["content"], list) else []
        if message["role"] == "user":
            wrong = _wrong_with_results(place, blocks, waiting)
            waiting = set()
        else:
            wrong = _wrong_with_answer(place, blocks)
            waiting = {block["id"] for block in blocks if block.get("type") == "tool_use"}
        if wrong:
            return 400, wrong
    return None


def _wrong_with_results(place: int, blocks: Blocks, waiting: set[str]) -> str:
    given = {block["tool_use_id"] for block in blocks if block.get("type") == "tool_result"}
    if missing := sorted(waiting - given):
        return (
            f"messages.{place - 1}: `tool_use` ids were found without `tool_result` blocks immediately "
            f"after: {', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` "
            "block in the next message."
        )
    if unknown := sorted(given - waiting):
        return (
            f"messages.{place}: unexpected `tool_use_id` found in `tool_result` blocks: "
            f"{', '.join(unknown)}. "
            "Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
        )
    return ""


def _wrong_with_answer(place: int, blocks: Blocks) -> str:
    for at, block in enumerate(blocks):
        if block.get("type") == "text" and not block.get("text"):
            return f"messages.{place}.content.{at}.text: text content blocks must be non-empty"
        if block.get("type") == "thinking" and block["signature"] != signature(block["thinking"]):
            return f"messages.{place}.content.{at}: Invalid `signature` in `thinking` block"
    return ""
