"""An agent's terminal over a WebSocket: what it shows as binary messages, what is typed as binary messages.

The invariant: a viewer never holds up the agent, nor another viewer. One that reads slowly gets a picture of
the screen for what it missed; one that reads nothing is cut off by its connection; one that types more than
the program reads is closed. Several may look and type: there is one keyboard, and one size, the last one set.
"""

from __future__ import annotations

from typing import Annotated, Literal

import trio
from pydantic import Field
from quart import Response, Websocket

from orchestrator.api import problem
from orchestrator.api.agents import find
from orchestrator.api.route import Call, Query, Switch, validate_body
from orchestrator.api.services import Terminal, Viewer
from orchestrator.api.stream import CLOSE_S, GOING_AWAY, PIECE_BYTES, REFUSED, Streams
from orchestrator.api.strict_json import parse_object
from orchestrator.core.spec import Wire
from orchestrator.errors import AlreadyEnded

ENDED, FULL = 1000, 1013
MAX_REASON_BYTES = 120


class TerminalQuery(Query):
    """How to look on."""

    #: What comes first: the screen as it stands, or the last output as it came.
    start: Literal["screen", "replay"] = "screen"
    #: Whether what this viewer types is refused.
    watch: Switch = False


Cells = Annotated[int, Field(ge=1, le=10_000)]


class Resize(Wire):
    """What can be said by text: the size of the viewer's window, in columns and rows."""

    resize: Annotated[tuple[Cells, Cells], Field(strict=False)]


async def refuse_http(call: Call) -> Response:
    """Say what this path is for."""
    await trio.lowlevel.checkpoint()
    raise problem.RequestRefused("this is a WebSocket")


async def socket(call: Call, websocket: Websocket) -> None:
    """Show an agent's terminal; refused before the upgrade where there is none."""
    wanted = call.query(TerminalQuery)
    agent = await find(call)
    if agent.status.ended:
        raise AlreadyEnded(f"agent {agent.id} is {agent.status} already")
    terminal = call.services.terminal(agent.id)
    if terminal is None:
        why = "is not open now" if agent.runtime == "terminal" else f"is none: its runtime is {agent.runtime}"
        raise problem.NoTerminal(f"the terminal of agent {agent.id} {why}")
    if terminal.crowded:
        raise problem.NoTerminal("too many look at this terminal already")
    with terminal.watch(replay=wanted.start == "replay") as viewer:
        await _Show(websocket, terminal, viewer, call.streams, types=not wanted.watch).run()


class _Show:
    """One viewer's WebSocket."""

    def __init__(
        self, websocket: Websocket, terminal: Terminal, viewer: Viewer, streams: Streams, *, types: bool
    ) -> None:
        self._websocket = websocket
        self._terminal = terminal
        self._viewer = viewer
        self._streams = streams
        self._types = types
        self._refused: tuple[int, str] | None = None
        self._wait: trio.CancelScope | None = None

    async def run(self) -> None:
        """Serve until the program ends, the viewer leaves or is refused, or the server goes down."""
        await self._websocket.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            code, reason = await self._write()
            await self._websocket.close(code, reason)
            # Its own close comes back as a disconnect, which cancels this.
            with trio.move_on_after(CLOSE_S):
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()

    async def _write(self) -> tuple[int, str]:
        """Show; return with which code to close."""
        while True:
            piece: bytes | None = None
            with self._streams.patience() as self._wait:
                if self._refused is None:
                    piece = await self._viewer.next_piece()
            if (refused := self._refusal()) is not None:
                return refused
            if self._streams.ending:
                return GOING_AWAY, "the orchestrator is going down"
            if not piece:
                why = self._terminal.over.encode()[:MAX_REASON_BYTES]
                return ENDED, why.decode("utf-8", "ignore")
            for start in range(0, len(piece), PIECE_BYTES):
                await self._websocket.send(piece[start : start + PIECE_BYTES])
                # A send after the client left returns at once, so this loop must let others run.
                await trio.lowlevel.checkpoint()

    def _refusal(self) -> tuple[int, str] | None:
        return self._refused

    async def _read(self) -> None:
        while self._refused is None:
            message = await self._websocket.receive()
            self._refused = self._take(message)
        if self._wait is not None:
            self._wait.cancel()

    def _take(self, message: str | bytes) -> tuple[int, str] | None:
        """Do what a viewer asks; return how it is refused, if it is."""
        if isinstance(message, str):
            try:
                columns, rows = validate_body(Resize, parse_object(message.encode())).resize
            except (problem.RequestRefused, UnicodeEncodeError) as error:
                return REFUSED, str(error)[:100]
            if self._types:
                self._terminal.resize_nowait(columns, rows)
            return None
        if not self._types:
            return REFUSED, "this viewer only watches"
        if not self._terminal.type_nowait(message):
            return FULL, "the program reads nothing of what is typed"
        return None
