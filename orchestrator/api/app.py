"""The application: the routes behind the door.

The invariant: whatever an endpoint raises leaves as a problem document, and every route but health's has
passed the door's token check and its own scope. Made by the assembly, served by `server`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import trio
from quart import Request, Response, Websocket, request, websocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from orchestrator.api import problem
from orchestrator.api.access import Principal, Scope
from orchestrator.api.door import App, Door, House
from orchestrator.api.idempotency import Keys
from orchestrator.api.route import Call, Route, SocketEndpoint, refusal
from orchestrator.api.routes import make_routes
from orchestrator.api.services import Services
from orchestrator.api.stream import Streams
from orchestrator.errors import OrchestratorError

log = logging.getLogger("orchestrator.api")

#: Who calls what needs no token.
NOBODY = Principal("nobody", Scope.READ)


def create_app(services: Services) -> QuartTrio:
    """Return the ASGI application."""
    app, streams = new_app(services, services.redact)
    shared = Shared(services, streams, Keys())
    for route in make_routes(services.version):
        make_call = partial(_make_call, shared, route)
        for number, rule in enumerate((route.rule, *route.also)):
            endpoint = f"{route.name}-{number}"
            if route.socket is not None:
                app.add_websocket(rule, endpoint, _socket_view(route.socket, make_call))
            else:
                app.add_url_rule(rule, endpoint, _view(route, make_call), methods=[route.method])
    return app


def new_app(house: House, redact: Callable[[str], str]) -> tuple[QuartTrio, Streams]:
    """Return an application without routes behind the door, which answers errors as problem documents.

    `redact` takes out of what they say whatever nobody may read.
    """
    app = QuartTrio("orchestrator.api", static_folder=None, template_folder=None)
    # Nothing but the routes: no redirects, no automatic OPTIONS.
    app.url_map.merge_slashes = False
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.config["MAX_CONTENT_LENGTH"] = house.limits.body_bytes
    streams = app.extensions["orchestrator.streams"] = Streams()
    app.register_error_handler(OrchestratorError, partial(_refuse, redact=redact))
    app.register_error_handler(HTTPException, _refuse_http)
    app.register_error_handler(Exception, _refuse_unforeseen)
    app.asgi_app = Door(cast("App", app.asgi_app), house)  # type: ignore[assignment,method-assign]
    return app, streams


@dataclass(frozen=True, slots=True)
class Shared:
    """What every call of the application gets."""

    services: Services
    streams: Streams
    keys: Keys


MakeCall = Callable[[Request | Websocket, dict[str, str]], Call]


def _make_call(shared: Shared, route: Route, asked: Request | Websocket, variables: dict[str, str]) -> Call:
    """Return the call, once its scope is covered."""
    scope: dict[str, Any] = asked.scope  # type: ignore[assignment]  # with the door's own notes in it
    principal: Principal = scope.get("orchestrator.principal") or NOBODY
    if route.scope is not None and not principal.may(route.scope):
        raise problem.ScopeMissing(f"this needs the scope {route.scope}, and the token has {principal.scope}")
    return Call(
        services=shared.services,
        streams=shared.streams,
        keys=shared.keys,
        connection=scope["state"]["connection"],
        principal=principal,
        method=asked.method,
        path=scope["path"],
        variables=variables,
        query_string=scope["query_string"],
        headers={name.lower(): value for name, value in asked.headers.items()},
        content=scope.get("orchestrator.body", b""),
    )


def _view(route: Route, make_call: MakeCall) -> Callable[..., Awaitable[Response]]:
    async def view(**variables: str) -> Response:
        return await route.run(make_call(request, variables))

    return view


def _socket_view(serve: SocketEndpoint, make_call: MakeCall) -> Callable[..., Awaitable[None]]:
    async def view(**variables: str) -> None:
        # The children of the stream have no request context of their own, so they get the thing itself.
        await serve(make_call(websocket, variables), websocket._get_current_object())  # type: ignore[attr-defined]  # noqa: SLF001

    return view


# Quart runs a plain function in a thread, so these are coroutines.


async def _refuse(error: OrchestratorError, redact: Callable[[str], str]) -> Response:
    await trio.lowlevel.checkpoint()
    if error.status >= 500 and not error.retryable:
        log.error("a request failed: %s: %s", type(error).__name__, error.detail)
    return refusal(error, redact)


async def _refuse_http(error: HTTPException) -> Response:
    await trio.lowlevel.checkpoint()
    match error:
        case NotFound():
            return refusal(problem.PathUnknown())
        case MethodNotAllowed(valid_methods=methods):
            response = refusal(problem.MethodRefused())
            response.headers["Allow"] = ", ".join(sorted(methods or ()))
            return response
    return refusal(problem.RequestRefused())


async def _refuse_unforeseen(error: Exception) -> Response:
    await trio.lowlevel.checkpoint()
    log.error("a request failed in an unforeseen way", exc_info=error)
    return refusal(OrchestratorError())
