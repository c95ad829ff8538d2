"""What an endpoint is: one `Route` is the path, the scope, the documentation and the code.

The application and openapi.json are both made from the routes, so that they cannot differ. An endpoint
gets a `Call` and returns a response; it never sees the web framework's globals.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from quart import Response, Websocket

from orchestrator.api import problem
from orchestrator.api.access import Principal, Scope
from orchestrator.api.services import Services
from orchestrator.api.strict_json import Json, parse_object
from orchestrator.core.answer import Answer
from orchestrator.core.spec import Wire
from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from orchestrator.api.connection import Connection
    from orchestrator.api.idempotency import Keys
    from orchestrator.api.stream import Streams

MAX_QUERY_FIELDS = 32
JSON = "application/json"
#: What any body can meet.
BODY = (problem.BadJson, problem.BodyLate, problem.BodyTooLarge, problem.MediaTypeRefused)

B = TypeVar("B", bound=BaseModel)
Q = TypeVar("Q", bound="Query")


class Query(Wire):
    """The fields of a query string; none unless a route says so."""

    model_config = ConfigDict(strict=False)


def _bare(value: object) -> object:
    return True if value == "" else value


#: A switch in a query string: `?follow` alone is true.
Switch = Annotated[bool, BeforeValidator(_bare)]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, after the door let it in."""

    services: Services
    streams: Streams
    keys: Keys
    #: What the request came by.
    connection: Connection
    principal: Principal
    method: str
    path: str
    #: The variables of the path, by their names in the route.
    variables: Mapping[str, str]
    query_string: bytes
    headers: Mapping[str, str]
    content: bytes

    def query(self, model: type[Q]) -> Q:
        """Return the query's fields, or raise `Invalid`."""
        fields: dict[str, str] = {}
        try:
            pairs = parse_qsl(
                self.query_string.decode("ascii", "replace"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=MAX_QUERY_FIELDS,
            )
        except ValueError as error:
            raise problem.RequestRefused(f"the query cannot be read: {error}") from None
        for name, value in pairs:
            if name in fields:
                raise problem.Invalid([problem.FieldError(name[:80], "is there twice")])
            fields[name] = value
        return _validate(model, fields)

    def json(self) -> Json:
        """Return the body as a JSON object, or raise."""
        media = self.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if media != JSON and not media.endswith("+json"):
            raise problem.MediaTypeRefused
        return parse_object(self.content)

    def accepts(self, media_type: str) -> bool:
        """Return whether the client asked for this media type by name."""
        return media_type in self.headers.get("accept", "")


Endpoint = Callable[[Call], Awaitable[Response]]
#: Accepts the WebSocket, or raises before it does.
SocketEndpoint = Callable[[Call, Websocket], Awaitable[None]]
_VARIABLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Returns:
    """One documented answer."""

    description: str
    model: type[Answer] | None = None
    media_type: str = JSON
    example: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path."""

    method: str
    #: As in OpenAPI: `/agents/{agentId}/status`.
    path: str
    #: The operationId, unique.
    name: str
    summary: str
    tag: str
    #: None lets everybody in.
    scope: Scope | None
    run: Endpoint
    returns: Mapping[int, Returns]
    query: type[Query] = Query
    body: type[BaseModel] | None = None
    body_example: Any = None
    #: Takes an Idempotency-Key.
    keyed: bool = False
    errors: tuple[type[OrchestratorError], ...] = ()
    #: A WebSocket: it is served by this, and `run` is not called.
    socket: SocketEndpoint | None = None
    #: Other paths that do the same and are documented as this one.
    also: tuple[str, ...] = field(default=())

    @property
    def rule(self) -> str:
        """The path in the framework's notation."""
        return _VARIABLE.sub(r"<\1>", self.path)

    @property
    def variables(self) -> list[str]:
        """The names of the variables in the path."""
        return _VARIABLE.findall(self.path)


def validate_body(model: type[B], value: Json) -> B:
    """Return the body as the model, by its names on the wire alone, or raise `Invalid`."""
    return _validate(model, value)


def _validate(model: type[B], value: Mapping[str, Any]) -> B:
    try:
        return model.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as error:
        raise problem.invalid(error) from None


def answer(body: Answer, status: int = HTTPStatus.OK) -> Response:
    """Return a JSON response."""
    return json_bytes(body.model_dump_json().encode(), status)


def json_bytes(body: bytes, status: int = HTTPStatus.OK) -> Response:
    """Return a response of JSON that is bytes already."""
    return Response(body, status, content_type=JSON)


def refusal(error: OrchestratorError, redact: Callable[[str], str] = str) -> Response:
    """Return the problem document of an error."""
    return Response(problem.render(error, redact), error.status, headers=problem.headers_of(error))
