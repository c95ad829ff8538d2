"""An agent's log as a stream: NDJSON, or SSE for who asks for it.

The invariant: a followed log ends by itself once its agent has ended and every line was sent, and a
stream that nobody writes to costs nothing while it waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

import trio
from quart import Response

from orchestrator.api.agents import find
from orchestrator.api.events import SSE, cursor, endless
from orchestrator.api.feed import Seq
from orchestrator.api.route import Call, Query, Switch
from orchestrator.api.services import Services
from orchestrator.api.stream import Streams, wait_first
from orchestrator.core import answer, sse
from orchestrator.core.model import AgentId
from orchestrator.journal.logs import LogLine

NDJSON = "application/x-ndjson"
PAGE = 1000
#: Seconds that lines still in memory may take to be readable, once their agent has ended.
SETTLE_S = 2.0


class LogQuery(Query):
    """Which lines of the log."""

    follow: Switch = False
    after: Seq | None = None
    stream: Literal["stdout", "stderr", "system"] | None = None


async def logs(call: Call) -> Response:
    """Stream the lines that an agent wrote."""
    asked = call.query(LogQuery)
    agent = await find(call)
    after = cursor(call, asked.after)
    as_sse = call.accepts(SSE)
    body = LogBody(call.services, call.streams, agent.id, asked, after or 0, as_sse=as_sse)
    return endless(call, body, SSE if as_sse else NDJSON)


class LogBody:
    """The body of the response: pages of lines."""

    def __init__(
        self,
        services: Services,
        streams: Streams,
        agent_id: AgentId,
        asked: LogQuery,
        after: int,
        *,
        as_sse: bool,
    ) -> None:
        self._store = services.store
        self._heartbeat_s = services.limits.heartbeat_s
        self._streams = streams
        self._agent_id = agent_id
        self._asked = asked
        self._cursor = after
        self._sse = as_sse
        self._settled = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._streams.ending:
            if not self._settled and not self._live():
                # From here on nothing is added, so one more pass to the end is the whole.
                with trio.move_on_after(SETTLE_S):
                    await self._store.logs.wait_written()
                self._settled = True
            # Read whole and filtered here: the cursor must pass the other streams' lines too.
            lines = await self._store.logs.read(self._agent_id, after=self._cursor, limit=PAGE)
            if lines:
                self._cursor = lines[-1].id
                if chunk := self._encode(lines):
                    return chunk
            elif self._settled or not self._asked.follow:
                break
            elif not await self._wait() and self._sse:
                return sse.COMMENT
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Do nothing: there is nothing to give up."""

    def _live(self) -> bool:
        agent = self._store.state.agents.get(self._agent_id)
        return agent is not None and agent.live

    async def _wait(self) -> bool:
        """Wait for more lines or the agent's end; return false after a heartbeat's time without either."""
        with self._streams.patience(self._heartbeat_s) as scope:
            await wait_first(self._wait_lines, self._wait_end)
        return not scope.cancelled_caught

    async def _wait_lines(self) -> None:
        await self._store.logs.wait_for_more(self._agent_id, self._cursor)

    async def _wait_end(self) -> None:
        while self._live():
            await self._store.wait_past(self._store.state.seq)

    def _encode(self, lines: Iterable[LogLine]) -> bytes:
        wanted = self._asked.stream
        return b"".join(self._line(line) for line in lines if wanted in {None, line.stream})

    def _line(self, line: LogLine) -> bytes:
        shown = answer.LogLine(seq=line.id, time=line.time, stream=line.stream, content=line.content)
        text = shown.model_dump_json().encode()
        return sse.encode(text, event="log", frame_id=line.id) if self._sse else text + b"\n"
