"""The coordinator's HTTP: the quality check, the tasks to dispatch, and how it is.

The invariant: everything but `/health` has passed the same door as the orchestrator's API: Host, Origin,
token, rate and size are judged there, and whatever goes wrong leaves as a problem document. Made by
`service`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import trio
from quart import Response, request
from quart_trio import QuartTrio

from orchestrator.api.app import new_app
from orchestrator.api.problem import FieldError, Invalid, MediaTypeRefused
from orchestrator.api.route import JSON, json_bytes, validate_body
from orchestrator.api.services import Limits
from orchestrator.api.strict_json import Json, parse_object
from orchestrator.coordinator.bench import Bench
from orchestrator.coordinator.dispatcher import Dispatcher
from orchestrator.coordinator.ledger import MAX_PAGE, Ledger
from orchestrator.core.quality import MAX_BUNDLE_BYTES, UPLOAD_BYTES_PER_S, QualityCheck
from orchestrator.core.spec import TaskSpec
from orchestrator.gates.coordinator import BUNDLE, CHECK_PATH, HEALTH_PATH

#: A bundle in base64, and what goes with it.
BODY_BYTES = MAX_BUNDLE_BYTES * 4 // 3 + 2 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """What the endpoints need, and what the door does."""

    bench: Bench
    dispatcher: Dispatcher
    ledger: Ledger
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    api_key: str
    version: str
    #: Takes out of a text what nobody may read.
    redact: Callable[[str], str] = str
    limits: Limits = field(
        default_factory=lambda: Limits(body_bytes=BODY_BYTES, body_bytes_per_s=UPLOAD_BYTES_PER_S)
    )


def create_app(rooms: Rooms) -> QuartTrio:
    """Return the ASGI application."""
    app, _ = new_app(rooms, rooms.redact)

    async def health() -> Response:
        await trio.lowlevel.checkpoint()
        told = {"status": "healthy", "version": rooms.version, "accepts": [BUNDLE]}
        return _json({**told, "gates": rooms.bench.gates.names})

    async def check() -> Response:
        question = validate_body(QualityCheck, _body())
        return _json(await rooms.bench.judge(question))

    async def submit() -> Response:
        entry, fresh = await rooms.dispatcher.submit(validate_body(TaskSpec, _body()))
        return _json(entry.shown(), HTTPStatus.ACCEPTED if fresh else HTTPStatus.OK)

    async def tasks() -> Response:
        after, limit = _number("after", 0), _number("limit", 100)
        page = await rooms.ledger.page(after=after, limit=limit)
        more = {"next": str(page[-1].number)} if len(page) == min(limit, MAX_PAGE) and page else {}
        return _json({"tasks": [entry.shown() for entry in page], **more})

    async def task(task_id: str) -> Response:
        return _json((await rooms.ledger.find(task_id)).shown())

    routes: tuple[tuple[str, str, Callable[..., Awaitable[Response]]], ...] = (
        ("GET", HEALTH_PATH, health),
        ("POST", CHECK_PATH, check),
        ("POST", "/tasks", submit),
        ("GET", "/tasks", tasks),
        ("GET", "/tasks/<task_id>", task),
    )
    for method, path, endpoint in routes:
        app.add_url_rule(path, f"{method} {path}", endpoint, methods=[method])
    return app


def _body() -> Json:
    """Return the body as a JSON object, or raise."""
    media = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if media != JSON:
        raise MediaTypeRefused
    scope: dict[str, Any] = request.scope  # type: ignore[assignment]  # with the door's own notes in it
    return parse_object(scope["orchestrator.body"])


def _number(name: str, default: int) -> int:
    text = request.args.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise Invalid([FieldError(name, "is no whole number")])
    return int(text)


def _json(value: dict[str, Any], status: int = HTTPStatus.OK) -> Response:
    return json_bytes(json.dumps(value, ensure_ascii=False).encode(), status)
