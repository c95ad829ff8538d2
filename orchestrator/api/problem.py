"""What can be wrong with a request, and the problem document (RFC 9457) that says so.

The invariant: whatever a client sends, the answer is one of these, with a stable `code`; never a
traceback, and never a path of the host, so an error of ours (5xx) shows only its class's own words. Used
by every module of the API.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import CommandRefused, OrchestratorError, RepositoryError, RuntimeUnknown

MEDIA_TYPE = "application/problem+json"
#: Characters of a detail or message, and the number of field errors, that are sent.
MAX_TEXT = 500
MAX_ERRORS = 20


class RequestRefused(OrchestratorError):
    """The request cannot be served as it is."""

    code = "bad_request"
    status = 400


class RequestUnreadable(RequestRefused):
    """This is no HTTP/1.1 request that can be read."""


class HeadersTooLarge(RequestRefused):
    """The request line and its headers are too large."""

    code = "headers_too_large"
    status = 431


class TransferCodingUnknown(RequestRefused):
    """The only Transfer-Encoding that is understood is chunked."""

    code = "transfer_encoding_unknown"
    status = 501


class BadJson(RequestRefused):
    """The body is not one JSON object as RFC 8259 has it."""

    code = "bad_json"


class TokenNeeded(RequestRefused):
    """This needs a token: Authorization: Bearer TOKEN, or X-API-Key: TOKEN."""

    code = "unauthorized"
    status = 401


class ScopeMissing(RequestRefused):
    """The token's scopes do not cover this."""

    code = "forbidden"
    status = 403


class HostRefused(RequestRefused):
    """The Host header names no host of ours; ALLOWED_HOSTS lists them."""

    code = "host_refused"
    status = 403


class OriginRefused(RequestRefused):
    """Pages of that origin may not call; ALLOWED_ORIGINS lists those that may."""

    code = "origin_refused"
    status = 403


class PathUnknown(RequestRefused):
    """There is nothing at this path."""

    code = "not_found"
    status = 404


class NoDiff(RequestRefused):
    """The agent has no candidate to show."""

    code = "no_candidate"
    status = 404


class NoSalvage(RequestRefused):
    """Nothing is kept of that agent."""

    code = "no_salvage"
    status = 404


class NoTerminal(RequestRefused):
    """The agent has no terminal that can be looked at now."""

    code = "no_terminal"
    status = 409


class MethodRefused(RequestRefused):
    """The path does not take this method."""

    code = "method_not_allowed"
    status = 405


class BodyLate(RequestRefused):
    """The body did not arrive in time."""

    code = "request_timeout"
    status = 408


class KeyInFlight(RequestRefused):
    """A request with this Idempotency-Key is being served; ask again when it is done."""

    code = "idempotency_in_flight"
    status = 409
    retryable = True


class BodyTooLarge(RequestRefused):
    """The body is larger than 1 MiB."""

    code = "too_large"
    status = 413


class MediaTypeRefused(RequestRefused):
    """The body must be application/json."""

    code = "unsupported_media_type"
    status = 415


class KeyReused(RequestRefused):
    """This Idempotency-Key was used with another body."""

    code = "idempotency_key_reused"
    status = 422


class RateLimited(RequestRefused):
    """Too many requests; Retry-After says when to go on."""

    code = "rate_limited"
    status = 429
    retryable = True

    def __init__(self, retry_after_s: float) -> None:
        super().__init__()
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field; the path is as on the wire: `context.branch`."""

    field: str
    message: str


class Invalid(RequestRefused):
    """The request has fields that cannot be used; errors names them."""

    code = "invalid"
    status = 422

    def __init__(self, errors: list[FieldError], detail: str = "") -> None:
        super().__init__(detail or "; ".join(f"{each.field}: {each.message}" for each in errors[:3]))
        self.errors = errors


def invalid(error: ValidationError, where: str = "") -> Invalid:
    """Return pydantic's findings as field errors; the values sent are not repeated."""
    found = []
    items = error.errors(include_url=False, include_input=False)[:MAX_ERRORS]
    for item in items:
        loc = item["loc"]
        if item["type"] == "too_short" and any(
            other["loc"][: len(loc)] == loc and other is not item for other in items
        ):
            continue  # its members are there, and refused themselves
        path = ".".join(str(part) for part in loc) or where or "body"
        message = say(item)
        if item["loc"] == () and ": " in message:  # a validator of the whole names its field itself
            named, _, rest = message.partition(": ")
            path, message = (named, rest) if named.replace(".", "").isalnum() else (path, message)
        found.append(FieldError(path[:MAX_TEXT], message[:MAX_TEXT]))
    return Invalid(found)


#: What pydantic has Python's words for, in JSON's.
_WORDS = {
    "missing": "is needed",
    "extra_forbidden": "is not known here",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number, and a smaller one",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "tuple_type": "must be an array",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "enum": "must be one of {expected}",
    "literal_error": "must be one of {expected}",
    "too_short": "must have a length of at least {min_length}",
    "too_long": "must have a length of at most {max_length}",
    "string_too_short": "must have a length of at least {min_length}",
    "string_too_long": "must have a length of at most {max_length}",
    "string_pattern_mismatch": "must match {pattern}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
}


def say(item: ErrorDetails) -> str:
    """Return what is wrong with the field, without its name."""
    words = _WORDS.get(item["type"])
    return words.format(**item.get("ctx", {})) if words else item["msg"].removeprefix("Value error, ")


def fields_of(error: OrchestratorError) -> list[FieldError]:
    """Return the fields that an error of another room is about."""
    match error:
        case Invalid(errors=errors):
            return errors
        case KeyReused():
            return [FieldError("Idempotency-Key", error.detail)]
        case RepositoryError():
            return [FieldError("context.repository", error.detail)]
        case RuntimeUnknown():
            return [FieldError("options.runtime", error.detail)]
    if error.status != HTTPStatus.UNPROCESSABLE_ENTITY:
        return []
    field = getattr(error, "field", "body")
    return [FieldError(field, error.detail.removeprefix(f"{field}: "))]


def detail_of(error: OrchestratorError) -> str:
    """Return what a client may read about the error."""
    if error.status < 500 or isinstance(error, CommandRefused):
        return error.detail[: 4 * MAX_TEXT]
    return title_of(type(error))


def title_of(kind: type[OrchestratorError]) -> str:
    """Return the sentence that is the same for every error of this kind."""
    return " ".join((kind.__doc__ or "Something went wrong in the orchestrator.").split())


def render(error: OrchestratorError, redact: Callable[[str], str] = str) -> bytes:
    """Return the problem document; `redact` takes out what nobody may read."""
    document: dict[str, object] = {
        "type": f"urn:orchestrator:problem:{error.code}",
        "title": title_of(type(error)),
        "status": error.status,
        "code": error.code,
        "detail": redact(detail_of(error)),
    }
    if error.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        document["errors"] = [
            {"field": each.field, "message": redact(each.message)[:MAX_TEXT]} for each in fields_of(error)
        ]
    return json.dumps(document).encode()


def headers_of(error: OrchestratorError) -> dict[str, str]:
    """Return the headers that belong to the problem."""
    headers = {"Content-Type": MEDIA_TYPE}
    if isinstance(error, TokenNeeded):
        headers["WWW-Authenticate"] = 'Bearer realm="orchestrator"'
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    elif error.status in {429, 503}:
        headers["Retry-After"] = "5"
    return headers
