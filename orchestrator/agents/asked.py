"""What a client of the door may ask the provider for, judged before anything of it leaves the host. Pure.

The invariant: what is let through means one thing only (no key twice, one encoding), costs no more than the
price table says, and reaches nobody but the model: what a provider would fetch or call from its own network
is a way around the sandbox. Caller: `proxy`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

from orchestrator.agents.base import Request
from orchestrator.core.message import CHARS_A_TOKEN

#: Bytes of a request's body, as far as a door takes it.
MAX_BODY_BYTES = 16 * 1024 * 1024
#: Bytes outside of its strings, and strings: what takes time to parse. A real one has a tenth of it.
MAX_STRUCTURE = 512 * 1024
MAX_STRINGS = 100_000
MAX_MAX_TOKENS = 10_000_000
#: Characters of a model's name.
MAX_MODEL = 128
#: Characters of a request and its answer that are kept beside the journal.
MAX_CONTENT = 256 * 1024

#: Tokens that an image stands for at most, and bytes of a document in base64 for one token.
_IMAGE_TOKENS = 5000
_DOCUMENT_BYTES_A_TOKEN = 4
#: Tokens that no model's prompt has more than; those that the provider adds for each tool, and for all.
MAX_PROMPT_TOKENS = 1_000_000
_HIDDEN_TOKENS = 1000
_QUERY = re.compile(r"[A-Za-z0-9_.=&-]{0,200}")
_MODEL_PATH = re.compile(r"/v1/models/([A-Za-z0-9._:@-]{1,128})")
#: Tools that run where the client is, or at the provider without reaching anybody.
_TOOLS = re.compile(r"(custom|(bash|text_editor|computer|memory|tool_search_tool|code_execution)_\w+)")
#: Of these, what is charged for by the time that it runs.
_UNPRICED = re.compile(r"code_execution_\w+")
#: Tuples, as what is sought in them may be anything, and not all can be looked up in a set.
_SOURCED, _SOURCES = ("image", "document"), ("base64", "text", "content")
_PRICED = {"speed": (None, "standard"), "inference_geo": (None, "global")}
#: The headers that a provider is shown; above all, none that could be a credential.
_SHOWN = {"accept", "anthropic-beta", "anthropic-version", "user-agent", "x-app"}
_SHOWN_PREFIX = "x-stainless-"
_BETAS = "anthropic-beta"
#: Of what a client wants to try, another way to log in: with it, our key would be refused.
_LOGIN = re.compile(r"\s*oauth-", re.IGNORECASE)


class Refused(Exception):
    """The door answers by itself, with an error such as the provider's."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message

    @property
    def body(self) -> bytes:
        """The error's JSON."""
        error = {"type": self.kind, "message": self.message}
        return json.dumps({"type": "error", "error": error}).encode()


class Way(Enum):
    """What a request is for."""

    PROBE = "probe"
    MESSAGES = "messages"
    COUNT = "count"
    MODELS = "models"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request to a model that may be made."""

    request: Request
    stream: bool
    #: What has been said since the model's last answer.
    news: list[Any]


def find_way(method: str, target: str, models: Iterable[str]) -> Way:
    """Return what a request is for; raises `Refused` where that is none of what the provider documents."""
    path, _, query = target.partition("?")
    if method == "CONNECT" or not path.startswith("/"):
        raise Refused(403, "permission_error", "this is the door to the model, and no proxy")
    if not _QUERY.fullmatch(query):
        raise Refused(403, "permission_error", "such a query is not let through")
    known = {
        "/": ("HEAD", Way.PROBE),
        "/v1/messages": ("POST", Way.MESSAGES),
        "/v1/messages/count_tokens": ("POST", Way.COUNT),
        "/v1/models": ("GET", Way.MODELS),
    }
    allowed, way = known.get(path, ("", Way.MODELS))
    if not allowed and (named := _MODEL_PATH.fullmatch(path)):
        check_model(named[1], models)
        allowed = "GET"
    if not allowed:
        raise Refused(404, "not_found_error", f"the door leads to the model alone, not to {path[:200]}")
    if method != allowed:
        raise Refused(403, "permission_error", f"{path} takes {allowed} only")
    return way


def check_model(model: object, models: Iterable[str]) -> str:
    """Return the model's name, or raise `Refused` where the agent may not use it; `models` may be globs."""
    if isinstance(model, str) and len(model) <= MAX_MODEL and any(fnmatchcase(model, a) for a in models):
        return model
    may = ", ".join(models)
    raise Refused(403, "permission_error", f"the model {str(model)[:128]!r} is not this agent's: {may}")


def shown_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers that go on to the provider, by lower-case names."""
    shown = {name: value for name, value in headers if name in _SHOWN or name.startswith(_SHOWN_PREFIX)}
    betas = [each for each in shown.pop(_BETAS, "").split(",") if each.strip() and not _LOGIN.match(each)]
    return {**shown, _BETAS: ",".join(betas)} if betas else shown


def read_body(body: bytes, models: Sequence[str], *, counts: bool = False) -> Wanted:
    """Return what a body asks of a model; raises `Refused`. One that only `counts` tokens has no ceiling."""
    given = _parsed(body)
    model = check_model(given.get("model"), models)
    _check_reach(given)
    stream, most = given.get("stream", False), given.get("max_tokens", 1 if counts else None)
    if not isinstance(stream, bool):
        raise _invalid("stream: a boolean is needed")
    if not isinstance(most, int) or isinstance(most, bool) or not 0 < most <= MAX_MAX_TOKENS:
        raise _invalid("max_tokens: a positive number is needed")
    messages = given["messages"]
    last = max((n for n, each in enumerate(messages) if each.get("role") == "assistant"), default=-1)
    estimate = estimate_tokens(len(body), _blocks(messages))
    worst = most_tokens(len(body), _blocks(messages), given.get("tools"))
    dear = next(filter(_UNPRICED.fullmatch, _kinds(given)), None)
    return Wanted(Request(model, estimate, most, worst, dear), stream, messages[last + 1 :])


def _invalid(message: str) -> Refused:
    return Refused(400, "invalid_request_error", message)


def _parsed(body: bytes) -> dict[str, Any]:
    """Return the JSON of a body that says one thing, in a bounded time."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = plain.count(b'"') // 2
    if strings > MAX_STRINGS or sum(map(len, plain.split(b'"')[::2])) > MAX_STRUCTURE:
        raise Refused(413, "request_too_large", "the request has more parts than the door takes")
    try:
        given = json.loads(body.decode(), object_pairs_hook=_without_twins, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"the body is no JSON that says one thing: {error!s:.200}") from None
    messages = given.get("messages") if isinstance(given, dict) else None
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise _invalid("messages: a list of messages is needed")
    return dict(given)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _check_reach(given: Mapping[str, Any]) -> None:
    """Raise `Refused` where the provider would reach out for the agent, or charge more than its price."""
    if given.get("mcp_servers"):
        raise _beyond("mcp_servers: the provider would call them from its own network")
    for name, priced in _PRICED.items():
        if given.get(name) not in priced:
            raise _beyond(f"{name}: no price is known for it")
    for kind in _kinds(given):
        if not (isinstance(kind, str) and _TOOLS.fullmatch(kind)):
            raise _beyond(f"tools: {kind!r:.100} runs at the provider, and reaches hosts from there")
    for block in _blocks(given["messages"]):
        source = block.get("source")
        kind = source.get("type") if isinstance(source, dict) else None
        if block.get("type") in _SOURCED and kind is not None and kind not in _SOURCES:
            raise _beyond(f"messages: the provider would fetch a source of type {kind!r:.100}")


def _kinds(given: Mapping[str, Any]) -> list[Any]:
    """Return the types of the tools in a request that have one."""
    tools = given.get("tools")
    kinds = [tool.get("type") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return [kind for kind in kinds if kind is not None]


def _beyond(message: str) -> Refused:
    return Refused(403, "permission_error", message)


def _blocks(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield every object in what was said, however deep."""
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            yield each
            pending += each.values()
        elif isinstance(each, list):
            pending += each


def estimate_tokens(size: int, blocks: Iterable[Mapping[str, Any]]) -> int:
    """Return an upper estimate of a prompt's tokens, by its bytes and the images and documents in it."""
    tokens = 0
    for block in blocks:
        source = block.get("source")
        if (
            isinstance(source, dict)
            and source.get("type") == "base64"
            and isinstance(source.get("data"), str)
        ):
            size -= len(source["data"])
            image = block.get("type") == "image"
            tokens += _IMAGE_TOKENS if image else len(source["data"]) // _DOCUMENT_BYTES_A_TOKEN
    return tokens + max(0, size) // CHARS_A_TOKEN + 1


def most_tokens(size: int, blocks: Iterable[Mapping[str, Any]], tools: object) -> int:
    """Return what a prompt can come to, whatever somebody wrote to make it dear.

    A token is a byte at least; a page of a document is many tokens, and takes few bytes.
    """
    tokens = _HIDDEN_TOKENS * (1 + (len(tools) if isinstance(tools, list) else 0))
    for block in blocks:
        source = block.get("source")
        data = source.get("data") if isinstance(source, dict) and source.get("type") == "base64" else None
        if isinstance(data, str):
            size -= len(data)
            tokens += _IMAGE_TOKENS if block.get("type") == "image" else MAX_PROMPT_TOKENS
    return min(tokens + max(0, size), MAX_PROMPT_TOKENS)


def content_of(news: Sequence[object], answer: Sequence[object]) -> str:
    """Return, as JSON, the messages since the last answer and this answer; what is too long is left out."""
    messages = [*news, {"role": "assistant", "content": answer}]
    try:
        text = json.dumps(messages)
        if len(text) <= MAX_CONTENT:
            return text
        left_out = {"role": "user", "content": f"[{len(text)} characters that are not kept]"}
        text = json.dumps([left_out, messages[-1]])
    except RecursionError:
        left_out, text = {"role": "user", "content": "[not kept: it is nested too deeply]"}, ""
    return text if text and len(text) <= MAX_CONTENT else json.dumps([left_out])
