"""The event streams as endpoints: SSE here, WebSocket handed on to `event_socket`."""

from __future__ import annotations

import trio
from quart import Response, Websocket

from orchestrator.api import problem
from orchestrator.api.event_socket import EventSocket
from orchestrator.api.feed import Feed, Filter, Wanted
from orchestrator.api.flow import Flow, SseBody, SseRecord
from orchestrator.api.route import Call
from orchestrator.api.stream import Form

SSE = "text/event-stream"
MAX_SEQ_DIGITS = 16


async def stream(call: Call) -> Response:
    """Stream events by SSE: those after the cursor from the journal, then as they happen."""
    await trio.lowlevel.checkpoint()
    wanted = call.query(Wanted)
    services = call.services
    after = cursor(call, wanted.after)
    if after is None and not wanted.follow:
        after = 0
    feed = Feed(services.store, after, Filter.of(wanted))
    connection = call.connection
    if not wanted.follow:
        return endless(call, SseRecord(call.streams, Flow(call.streams, feed, connection, Form.SSE)), SSE)
    flow = Flow(call.streams, feed, connection, Form.CHUNKED_SSE if connection.chunked else Form.SSE)
    return endless(call, SseBody(call.streams, flow, connection, services.limits.heartbeat_s), SSE)


async def socket(call: Call, websocket: Websocket) -> None:
    """Stream events over a WebSocket."""
    wanted = call.query(Wanted)
    await EventSocket(websocket, call.services.store, call.streams, call.connection, wanted).run()


def cursor(call: Call, after: int | None) -> int | None:
    """Return where a stream begins: where the last connection ended, else where the query says."""
    # An EventSource that connects anew sends its first query again, and with it the header that is newer.
    last = _last_event_id(call)
    return after if last is None else last


def _last_event_id(call: Call) -> int | None:
    value = call.headers.get("last-event-id", "").strip()
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > MAX_SEQ_DIGITS:
        raise problem.Invalid([problem.FieldError("Last-Event-ID", "must be a sequence number")])
    return int(value)


def endless(call: Call, body: object, media_type: str) -> Response:
    """Return a streaming response that no time-out cuts."""
    if call.method == "HEAD":
        return Response(b"", content_type=media_type)
    response = Response(body, content_type=media_type)  # type: ignore[arg-type]  # an async iterator with aclose
    response.timeout = None
    # Buffering proxies must pass each piece on at once.
    response.headers["X-Accel-Buffering"] = "no"
    return response
