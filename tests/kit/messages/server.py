"""The scripted Messages API: takes requests, finds the turn that each asks for, plays it, faults included.

SETTINGS are what is not in prompts; all may be left out, and changed while it runs (`ScriptedApi.change`):

    {"scripts": {"name": SCRIPT},     for prompts that hold `<<script "name" >>`
     "script": SCRIPT or "name",      for prompts that hold none
     "fault": FAULT, "storm": STORM,  for every agent, see `faults`
     "ceiling": 10,                   more requests than that at once are answered 429
     "keys": ["k"],                   the keys that are good; else any is
     "models": ["claude-..."],        the models there are; else any is
     "keep_bodies": true}             log whole bodies
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import trio

from tests.kit.messages import faults, record
from tests.kit.messages.connection import Asked, ClientLeftError, Connection
from tests.kit.messages.exchange import CutByScriptError, Exchange
from tests.kit.messages.script import Turn


class Api:
    """The state of one API: its settings, the counters of faults, how many requests are in flight."""

    def __init__(self, settings: Mapping[str, Any], log: record.RequestLog) -> None:
        self.settings = dict(settings)
        self._log = log
        self._weather = faults.Weather()
        self._requests = 0
        self._in_flight = 0

    def change(self, settings: Mapping[str, Any]) -> None:
        """Replace settings by name; a fault for the whole API counts its times anew."""
        self.settings.update(settings)
        if "fault" in settings:
            self._weather.forget()

    async def serve(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        """Answer one connection's requests until it ends; who calls closes it."""
        connection = Connection(stream)
        try:
            while (asked := await connection.ask()) is not None:
                await self._serve_one(connection, asked)
                if not connection.goes_on:
                    break
        except (ClientLeftError, CutByScriptError):
            return  # noted in the log, as far as there was a request

    async def _serve_one(self, connection: Connection, asked: Asked) -> None:
        self._requests += 1
        exchange = Exchange(self, connection, asked, self._requests)
        self._in_flight += exchange.is_message
        body = asked.body or b""
        self._log.note(
            exchange.number,
            arrived_s=exchange.arrived_s,
            in_flight=self._in_flight,
            method=asked.method,
            path=asked.path,
            headers=dict(asked.headers),
            body_bytes=len(body),
            body_sha256=hashlib.sha256(body).hexdigest(),
            **({"body": exchange.body} if self.settings.get("keep_bodies") else {}),
        )
        how = record.STOPPED
        try:
            await self._answer_or_see_it_leave(exchange)
            how = exchange.how or record.SERVED
        except ClientLeftError:
            how = record.CLIENT_LEFT
            raise
        except CutByScriptError as cut:
            how = f"cut by script: {cut}"
            raise
        finally:
            self.settle(exchange, how)

    def settle(self, exchange: Exchange, how: str) -> None:
        """Log how a request ended, and count it no longer.

        It is called before the last bytes go, that the log is never behind a client that has them; and again,
        should it have ended otherwise.
        """
        if exchange.how == how:
            return
        self._in_flight -= exchange.is_message and not exchange.how
        exchange.how = how
        seconds = record.now_s() - exchange.arrived_s
        self._log.note(exchange.number, how=how, seconds=seconds, **exchange.known)

    def note(self, exchange: Exchange) -> None:
        """Log what is now known of a request."""
        self._log.note(exchange.number, **exchange.known)

    async def _answer_or_see_it_leave(self, exchange: Exchange) -> None:
        left = False

        async def watch() -> None:
            nonlocal left
            await exchange.connection.until_left()
            left = True
            nursery.cancel_scope.cancel()

        broken: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                await exchange.answer()
            except (ClientLeftError, CutByScriptError) as error:
                broken = error  # a nursery would wrap it
            else:
                left = False
            nursery.cancel_scope.cancel()
        if broken is not None:
            raise broken
        if left:
            raise ClientLeftError

    def too_many(self) -> bool:
        """Whether more requests are in flight than the ceiling allows."""
        return self._in_flight > self.settings.get("ceiling", self._in_flight)

    def fault_of(self, turn: Turn) -> faults.Fault | None:
        """Return the fault that meets an agent's next request."""
        return self._weather.fault_of(turn, self.settings)
