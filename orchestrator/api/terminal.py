"""An agent's terminal over a WebSocket: what it shows as binary messages, what is typed as binary messages.

The invariant: a viewer never holds up the agent, nor another viewer. One that reads slowly gets a picture of
the screen for what it missed; one that reads nothing is cut off by its connection; one that types more than
the program reads is closed. Several may look and type: there is one keyboard, and one size, the last one set.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import trio
from pydantic import Field
from quart import Response, Websocket

from orchestrator.api import problem
from orchestrator.api.agents import find
from orchestrator.api.dialogue import ENDED, FULL, REFUSED, Close, Dialogue
from orchestrator.api.route import Call, Query, Switch, validate_body
from orchestrator.api.services import Terminal, Viewer
from orchestrator.api.stream import PIECE_BYTES, Streams
from orchestrator.api.strict_json import parse_object
from orchestrator.core.spec import Wire
from orchestrator.errors import AlreadyEnded


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


class _Show(Dialogue):
    """One viewer's WebSocket."""

    def __init__(
        self, websocket: Websocket, terminal: Terminal, viewer: Viewer, streams: Streams, *, types: bool
    ) -> None:
        super().__init__(websocket, streams)
        self._terminal = terminal
        self._viewer = viewer
        self._types = types

    async def next(self) -> Iterable[bytes] | Close:
        """Wait for what the program shows."""
        if piece := await self._viewer.next_piece():
            return (piece[start : start + PIECE_BYTES] for start in range(0, len(piece), PIECE_BYTES))
        return Close.telling(ENDED, self._terminal.over)

    def hear(self, said: str | bytes) -> Close | None:
        """Type, or give the screen another size."""
        if isinstance(said, str):
            try:
                columns, rows = validate_body(Resize, parse_object(said.encode())).resize
            except (problem.RequestRefused, UnicodeEncodeError) as error:
                return Close.telling(REFUSED, error)
            if self._types:
                self._terminal.resize_nowait(columns, rows)
            return None
        if not self._types:
            return Close(REFUSED, "this viewer only watches")
        if not self._terminal.type_nowait(said):
            return Close(FULL, "the program reads nothing of what is typed")
        return None
