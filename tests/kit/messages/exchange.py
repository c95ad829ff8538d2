"""One request and its answer: refused, or played as the script and the faults want it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import trio

from tests.kit.messages import checks, faults, record, wire
from tests.kit.messages.connection import Asked, Connection
from tests.kit.messages.script import BadScriptError, Turn, turn_of

if TYPE_CHECKING:
    from tests.kit.messages.server import Api

MODELS = ("claude-opus-5-5", "claude-opus-4-8", "claude-sonnet-4-6", "claude-haiku-4-5")
MADE_AT = "2026-01-01T00:00:00Z"
GARBAGE = bytes(range(256)) * 2


class CutByScriptError(Exception):
    """The script has ended the connection; the message is the fault's kind."""


class Exchange:
    """One request and its answer; `known` is what the log shall say of it."""

    def __init__(self, api: Api, connection: Connection, asked: Asked, number: int) -> None:
        self.api, self.connection, self.asked, self.number = api, connection, asked, number
        self.id = "req_" + hashlib.sha256(str(number).encode()).hexdigest()[:24]
        self.is_message = asked.method == "POST" and asked.path.partition("?")[0] == "/v1/messages"
        self.arrived_s = record.now_s()
        self.known: dict[str, Any] = {}
        self.how = ""
        self._now = datetime.now(UTC)
        try:
            self.body: Any = json.loads(asked.body or b"")
        except ValueError:
            self.body = None

    async def answer(self) -> None:
        """Send the answer that the path, the script and the faults ask for."""
        self.connection.slow_down(0.0, 0)
        path = self.asked.path.partition("?")[0]
        if path == "/" and self.asked.method == "HEAD":
            await self._whole(200, {}, empty=True)
        elif self.asked.body is None:
            await self._refuse(413, wire.MESSAGES[413])
        elif wrong := checks.wrong_with_key(self.asked.headers, self.api.settings.get("keys")):
            await self._refuse(*wrong)
        elif path.startswith("/v1/models") and self.asked.method == "GET":
            await self._models(path.removeprefix("/v1/models").strip("/"))
        elif path in {"/v1/messages", "/v1/messages/count_tokens"} and self.asked.method == "POST":
            await self._message(counts=path.endswith("count_tokens"))
        else:
            await self._refuse(404, "Not found")

    async def _models(self, wanted: str) -> None:
        names = self.api.settings.get("models") or MODELS
        if wanted and wanted not in names:
            await self._refuse(404, f"model: {wanted}")
            return
        models = [
            {"type": "model", "id": name, "display_name": name, "created_at": MADE_AT}
            for name in ([wanted] if wanted else names)
        ]
        page = {"data": models, "has_more": False, "first_id": models[0]["id"], "last_id": models[-1]["id"]}
        await self._whole(200, models[0] if wanted else page)

    async def _message(self, *, counts: bool) -> None:
        try:
            models = self.api.settings.get("models")
            if wrong := checks.wrong_with_request(self.asked.headers, self.body, models, counts=counts):
                await self._refuse(*wrong)
                return
            if counts:
                await self._whole(200, {"input_tokens": wire.input_tokens(self.body)})
                return
            self.known |= {"model": self.body["model"], "messages": len(self.body["messages"])}
            self.known["stream"] = bool(self.body.get("stream"))
            turn = turn_of(self.body, self.api.settings.get("scripts") or {}, self.api.settings.get("script"))
            self.known |= {"agent": turn.agent, "step": turn.number}
            self.api.note(self)
            await self._play(turn)
        except BadScriptError as bad:
            await self._refuse(400, f"script: {bad}")
        except (KeyError, TypeError, ValueError, AttributeError) as bad:
            await self._refuse(400, f"the request or its script has the wrong shape: {bad!r}")

    async def _play(self, turn: Turn) -> None:
        if self.api.too_many():
            await self._refuse(429, "Number of concurrent connections has exceeded your rate limit.")
            return
        fault = self.api.fault_of(turn)
        body, malformed = wire.message(turn, self.body, self.number)
        self.known["usage"] = body["usage"]
        await trio.sleep(float(turn.step.get("wait_s") or 0) + float((fault or {}).get("wait_s") or 0))
        if fault and (refusal := faults.refusal_of(fault, self._now)):
            await self._refuse(refusal.status, refusal.message, refusal.kind, refusal.headers)
            return
        self.connection.slow_down(
            float(turn.step.get("pause_s") or 0), int(turn.step.get("dribble_bytes") or 0)
        )
        after = faults.events_before(fault) if fault else None
        if fault and after is None:
            await self._befall(fault)
        if self.known["stream"]:
            await self._stream(body, malformed, fault, after or 0)
        elif fault:
            await self._half(body, fault)
        else:
            await self._whole(200, body)

    async def _stream(
        self, body: dict[str, Any], malformed: dict[str, str], fault: faults.Fault | None, after: int
    ) -> None:
        await self._head({"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"})
        self.known["events"] = 0
        for sent, event in enumerate(wire.events(body, malformed), start=1):
            if fault and sent > after:
                await self._befall(fault)
                return
            if event[0] == "message_stop" and not fault:
                self.known["events"] = sent
                self.api.settle(self, record.SERVED)
            await self.connection.part(wire.sse(event))
            self.known["events"] = sent
        if fault:  # it came too late: still, it happens instead of the end
            await self._befall(fault)
            return
        await self.connection.end()

    async def _half(self, body: dict[str, Any], fault: faults.Fault) -> None:
        """Let a fault happen in the middle of an answer that is no stream."""
        if fault["kind"] == "error":
            await self._refuse(
                500, fault.get("message") or wire.MESSAGES[500], fault.get("type") or "api_error"
            )
            return
        data = json.dumps(body).encode()
        await self._head({"content-type": "application/json"})
        await self.connection.part(data[: len(data) // 2])
        await self._befall(fault)

    async def _befall(self, fault: faults.Fault) -> None:
        """Let a fault happen; but for an error event and an early end, the connection is over."""
        kind = fault["kind"]
        if kind == "hang":
            self.known["status"] = self.known.get("status", 0)
            await trio.sleep_forever()
        self.api.settle(self, f"cut by script: {kind}")
        if kind in {"error", "end"}:
            if kind == "error":
                type_ = fault.get("type") or "overloaded_error"
                usual = wire.MESSAGES[529 if type_ == "overloaded_error" else 500]
                text = fault.get("message") or usual
                await self.connection.part(wire.sse(("error", wire.error(type_, text, self.id))))
            await self.connection.end()
            return
        if kind == "garbage":
            await self.connection.raw(GARBAGE)
        await self.connection.cut(reset=kind == "reset")
        raise CutByScriptError(kind)

    def _headers(self) -> dict[str, str]:
        return {
            "date": self._now.strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "request-id": self.id,
            "anthropic-organization-id": "00000000-0000-4000-8000-000000000000",
            **wire.rate_limit_headers(self._now),
        }

    async def _head(self, more: Mapping[str, str]) -> None:
        self.known["status"] = 200
        self.api.note(self)
        await self.connection.head(200, {**self._headers(), **more, "transfer-encoding": "chunked"})

    async def _whole(self, status: int, body: object, *, empty: bool = False) -> None:
        self.known["status"] = status
        self.api.settle(self, record.SERVED)
        await self.connection.whole(status, self._headers(), body, empty=empty)

    async def _refuse(
        self, status: int, message: str, kind: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        self.known |= {"status": status, "problem": message}
        should_retry = {"x-should-retry": "true"} if status in {429, 529} else {}
        body = wire.error(kind or wire.ERROR_TYPES[status], message, self.id)
        told = {**self._headers(), **should_retry, **(headers or {})}
        self.api.settle(self, record.SERVED)
        await self.connection.whole(status, told, body)
