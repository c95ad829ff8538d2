"""What can be wrong at a model's provider, told apart by what an agent should do about it.

Called by whoever talks to a provider (the runtime `claude`, the door), which raises `ProviderFailure`, and by
the meter, which decides by it whether to wait, to try again, or to give up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from orchestrator.core.model import Usage


class Trouble(StrEnum):
    """A kind of failure; the last five do not pass by waiting."""

    THROTTLED = "throttled"
    USAGE_LIMIT = "usage_limit"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    NETWORK = "network"
    LOGIN = "login"
    FORBIDDEN = "forbidden"
    MODEL = "model"
    REQUEST = "request"
    #: Its certificate is not one that we trust.
    UNTRUSTED = "untrusted"

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed later without anybody changing anything."""
        lasting = {Trouble.LOGIN, Trouble.FORBIDDEN, Trouble.MODEL, Trouble.REQUEST, Trouble.UNTRUSTED}
        return self not in lasting


#: The provider gives no answer of its own, or none that says what it waits for: nobody knows until when.
AWAY = frozenset({Trouble.NETWORK, Trouble.SERVER_ERROR})

#: The statuses that errors of these types have where they come before a stream.
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


#: How a provider says by status 400 that it does not have the model: not what it says of a request to one.
_NO_MODEL = re.compile(
    r"\bmodel\b.{0,200}\b(not found|not exist|not available|unknown|invalid)\b"
    r"|\b(invalid|unknown|unsupported|not a valid) model\b",
    re.IGNORECASE | re.DOTALL,
)


class ProviderFailure(Exception):
    """A request that was not answered, or not to its end."""

    def __init__(
        self,
        trouble: Trouble,
        detail: str,
        *,
        wait_s: float | None = None,
        until: datetime | None = None,
        begun: bool = False,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(f"{trouble}: {detail}")
        self.trouble = trouble
        self.detail = detail
        #: What the provider asks for: seconds to wait, and when a usage limit is reset.
        self.wait_s = wait_s
        self.until = until
        #: Whether a part of the answer was passed on already, so that the request cannot be repeated unseen.
        self.begun = begun
        #: What it cost all the same, as far as that is known.
        self.usage = usage
        #: Whether a program inside wrote the request: a refusal may be of its making, and says nothing of
        #: what others ask.
        self.of_program = False


def failure_of_response(
    status: int, headers: Mapping[str, str], body: bytes, now: datetime
) -> ProviderFailure:
    """Return what a response that is no success means; header names are lower case."""
    failure = _failure(status, *_told(body))
    wait_s = _seconds(headers.get("retry-after"))
    until = _moment(headers.get("anthropic-ratelimit-unified-reset"))
    if status == 429 and until is not None and until > now:
        return ProviderFailure(Trouble.USAGE_LIMIT, failure.detail, wait_s=wait_s, until=until)
    if failure.trouble is not Trouble.MODEL:
        failure.wait_s = wait_s
    return failure


def failure_of_event(error: object) -> ProviderFailure:
    """Return what an `error` event in the middle of a stream means: its status was sent long before."""
    kind, message = _words(error) if isinstance(error, dict) else ("", "")
    return _failure(_STATUSES.get(kind, 500), kind, message)


def _failure(status: int, kind: str, message: str) -> ProviderFailure:
    detail = f"HTTP {status} {kind}: {message}".strip(" :")
    if status == 404 or (status == 400 and _NO_MODEL.search(message)):
        return ProviderFailure(Trouble.MODEL, detail)
    trouble = {
        401: Trouble.LOGIN,
        402: Trouble.FORBIDDEN,
        403: Trouble.FORBIDDEN,
        408: Trouble.NETWORK,
        429: Trouble.THROTTLED,
        529: Trouble.OVERLOADED,
    }.get(status, Trouble.SERVER_ERROR if status >= 500 else Trouble.REQUEST)
    if kind == "overloaded_error":
        trouble = Trouble.OVERLOADED
    return ProviderFailure(trouble, detail)


def _told(body: bytes) -> tuple[str, str]:
    """Return the type and the message of an error body, as far as it is one; bounded."""
    try:
        return _words(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", body[:200].decode(errors="replace")


def _words(error: Mapping[str, Any]) -> tuple[str, str]:
    return str(error.get("type", ""))[:100], str(error.get("message", ""))[:500]


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text) if text else None
    except ValueError:
        return None
    return seconds if seconds is not None and 0 <= seconds < float("inf") else None


def _moment(text: str | None) -> datetime | None:
    """Return a moment that is written as seconds since 1970 or as RFC 3339."""
    if not text:
        return None
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
