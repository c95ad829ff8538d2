"""The Messages API's answers as bytes and dicts: messages, their events, error bodies, headers. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from tests.kit.messages.script import Turn
from tests.kit.messages.tools import calls_of

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
MESSAGES = {
    401: "invalid x-api-key",
    403: "Your API key does not have permission to use the specified resource.",
    404: "model: unknown",
    413: "Request exceeds the maximum size",
    429: "This request would exceed your account's rate limit. Please try again later.",
    500: "Internal server error",
    504: "Request timed out",
    529: "Overloaded",
}
PIECE_CHARS = 2000
CHARS_A_TOKEN = 4

Event = tuple[str, dict[str, Any]]


def error(kind: str, message: str, request_id: str) -> dict[str, Any]:
    """Return the body of an error, as it comes with a status and within a stream."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def tokens(value: object) -> int:
    """Return how many tokens something counts as here: one for each four characters of its JSON."""
    return len(json.dumps(value)) // CHARS_A_TOKEN + 1


def input_tokens(request: Mapping[str, Any]) -> int:
    """Return what a request's system prompt, tools and messages count as."""
    return tokens([request.get("system"), request.get("tools"), request["messages"]])


def signature(thought: str) -> str:
    """Return what proves that a thinking block comes back as it was sent."""
    return base64.b64encode(hashlib.sha256(b"thinking:" + thought.encode()).digest()).decode()


def message(turn: Turn, request: Mapping[str, Any], number: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the model's answer, and the malformed inputs of its tool calls by their ids."""
    step = turn.step
    content: list[dict[str, Any]] = []
    malformed: dict[str, str] = {}
    if thought := step.get("think"):
        content.append({"type": "thinking", "thinking": thought, "signature": signature(thought)})
    said = str(step.get("say") or "")
    if more := int(step.get("say_chars") or 0):
        said += ("0123456789abcde\n" * (more // 16 + 1))[:more]
    if said:
        content.append({"type": "text", "text": said})
    content += step.get("blocks") or []
    calls = calls_of(step, request) if request.get("tools") else []
    for place, ((name, given), text) in enumerate(calls):
        call = "toolu_" + _name(f"{turn.agent}:{turn.number}:{place}:{turn.script.get('steps')}")
        content.append({"type": "tool_use", "id": call, "name": name, "input": given})
        if text is not None:
            malformed[call] = text
    body = {
        "id": "msg_" + _name(f"{turn.agent}:{turn.number}:{number}"),
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": content,
        "stop_reason": step.get("stop") or ("tool_use" if calls else "end_turn"),
        "stop_sequence": None,
        "stop_details": step.get("stop_details"),
        "usage": _usage(step, request, content),
    }
    return body, malformed


def _usage(step: Mapping[str, Any], request: Mapping[str, Any], content: object) -> dict[str, Any]:
    counted = {
        "input_tokens": input_tokens(request),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": tokens(content),
        **(step.get("usage") or {}),
    }
    five_minutes = counted["cache_creation_input_tokens"]
    return {
        "cache_creation": {"ephemeral_5m_input_tokens": five_minutes, "ephemeral_1h_input_tokens": 0},
        **counted,
        "service_tier": "standard",
    }


def events(body: Mapping[str, Any], malformed: Mapping[str, str]) -> Iterator[Event]:
    """Yield the events of a message's stream, with the ping that comes after the first one."""
    start = {**body, "content": [], "stop_reason": None, "usage": {**body["usage"], "output_tokens": 1}}
    yield "message_start", {"type": "message_start", "message": start}
    yield "ping", {"type": "ping"}
    for index, block in enumerate(body["content"]):
        empty, deltas = _block(block, malformed)
        yield (
            "content_block_start",
            {"type": "content_block_start", "index": index, "content_block": empty},
        )
        for delta in deltas:
            yield "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": index}
    names = (
        "input_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "output_tokens",
    )
    delta = {name: body[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
    yield (
        "message_delta",
        {"type": "message_delta", "delta": delta, "usage": {name: body["usage"][name] for name in names}},
    )
    yield "message_stop", {"type": "message_stop"}


def _block(
    block: dict[str, Any], malformed: Mapping[str, str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a block as it starts, and what is then added to it."""
    match block["type"]:
        case "text":
            pieces = [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
            return {**block, "text": ""}, pieces
        case "thinking":
            pieces = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"])]
            proof = {"type": "signature_delta", "signature": block["signature"]}
            return {**block, "thinking": "", "signature": ""}, [*pieces, proof]
        case "tool_use":
            text = malformed.get(block["id"], json.dumps(block["input"]))
            pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *_pieces(text)]]
            return {**block, "input": {}}, pieces
    return block, []


def _pieces(text: str) -> list[str]:
    """Cut a text into pieces, at least two where it has as many characters."""
    size = max(1, min(PIECE_CHARS, (len(text) + 1) // 2))
    return [text[start : start + size] for start in range(0, len(text), size)]


def sse(event: Event) -> bytes:
    """Return an event as it goes over the wire."""
    name, data = event
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def rate_limit_headers(now: datetime, *, requests_left: int = 999) -> dict[str, str]:
    """Return what every answer tells about the limits."""
    reset = (now + timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%SZ")
    limits = {"requests": (1000, requests_left), "input-tokens": (2_000_000, 1_999_000)}
    limits |= {"output-tokens": (400_000, 399_000), "tokens": (2_400_000, 2_398_000)}
    return {
        f"anthropic-ratelimit-{name}-{what}": str(value)
        for name, (limit, left) in limits.items()
        for what, value in (("limit", limit), ("remaining", left), ("reset", reset))
    }


def _name(of: str) -> str:
    """Return a name as the API makes them, the same for the same thing."""
    return "01" + base64.b32encode(hashlib.sha256(of.encode()).digest()).decode()[:22]
