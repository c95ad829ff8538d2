"""The bodies of requests as JSON objects; what is none is refused as `BadJson`."""

from __future__ import annotations

from orchestrator.api.problem import BadJson
from orchestrator.core import strict_json
from orchestrator.core.strict_json import Json, NotJson

__all__ = ["Json", "canonical", "parse_object"]


def parse_object(body: bytes) -> Json:
    """Return the object that the body is."""
    try:
        return strict_json.parse_object(body)
    except NotJson as error:
        raise BadJson(str(error)) from None


def canonical(value: Json) -> bytes:
    """Return the same bytes for the same object, however it was written."""
    try:
        return strict_json.canonical(value)
    except NotJson as error:
        raise BadJson(str(error)) from None
