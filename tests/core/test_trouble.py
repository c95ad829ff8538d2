"""Failures of a provider are told apart by what an agent should do about them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.core.trouble import Trouble, failure_of_response

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=3)


def body(kind: str, message: str = "m") -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


@pytest.mark.parametrize(
    ("status", "headers", "content", "trouble", "passes"),
    [
        (429, {"retry-after": "7"}, body("rate_limit_error"), Trouble.THROTTLED, True),
        (429, {"anthropic-ratelimit-unified-reset": str(LATER.timestamp())}, b"", Trouble.USAGE_LIMIT, True),
        (429, {"anthropic-ratelimit-unified-reset": LATER.isoformat()}, b"", Trouble.USAGE_LIMIT, True),
        (429, {"anthropic-ratelimit-unified-reset": "1e400"}, b"", Trouble.THROTTLED, True),
        (529, {}, body("overloaded_error"), Trouble.OVERLOADED, True),
        (200, {}, body("overloaded_error"), Trouble.OVERLOADED, True),
        (500, {}, b"<html>", Trouble.SERVER_ERROR, True),
        (502, {}, b"\xff" * 10_000, Trouble.SERVER_ERROR, True),
        (401, {}, body("authentication_error"), Trouble.LOGIN, False),
        (403, {}, b"[]", Trouble.FORBIDDEN, False),
        (404, {}, body("not_found_error", "model: nope"), Trouble.MODEL, False),
        (400, {}, body("invalid_request_error", "prompt is too long"), Trouble.REQUEST, False),
        (
            400,
            {},
            body("invalid_request_error", "This model does not support prefill"),
            Trouble.REQUEST,
            False,
        ),
        (400, {}, body("x", "`top_k` cannot be set for this model"), Trouble.REQUEST, False),
        (400, {}, body("x", "The provided model identifier is invalid."), Trouble.MODEL, False),
        (400, {}, body("x", "Invalid model name passed in model=m"), Trouble.MODEL, False),
    ],
)
def test_a_failure_is_told_by_its_response(
    status: int, headers: dict[str, str], content: bytes, trouble: Trouble, passes: bool
) -> None:
    failure = failure_of_response(status, headers, content, NOW)
    assert (failure.trouble, failure.trouble.passes) == (trouble, passes)
    assert len(failure.detail) < 1000


def test_what_the_provider_asks_for_is_kept() -> None:
    throttled = failure_of_response(429, {"retry-after": "7"}, body("rate_limit_error", "slow down"), NOW)
    assert (throttled.wait_s, throttled.until) == (7.0, None)
    assert throttled.detail == "HTTP 429 rate_limit_error: slow down"
    limit = failure_of_response(429, {"anthropic-ratelimit-unified-reset": LATER.isoformat()}, b"", NOW)
    assert limit.until == LATER
    for nonsense in ("-1", "soon", "inf", "nan", ""):
        assert failure_of_response(429, {"retry-after": nonsense}, b"", NOW).wait_s is None
