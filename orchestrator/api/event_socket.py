"""Events over a WebSocket, and the client's word for which ones, which it may change at any time.

The invariant: after a new subscription nothing of the old one goes out any more, but what was half sent.
"""

from __future__ import annotations

from collections.abc import Iterable

from quart import Websocket

from orchestrator.api import problem
from orchestrator.api.connection import Connection
from orchestrator.api.dialogue import NOT_TEXT, REFUSED, Close, Dialogue
from orchestrator.api.feed import Feed, Filter, Message, Subscribe, Wanted
from orchestrator.api.flow import Flow
from orchestrator.api.route import validate_body
from orchestrator.api.stream import Form, Streams
from orchestrator.api.strict_json import parse_object
from orchestrator.journal.store import Store


class EventSocket(Dialogue):
    """One client that is told of events."""

    def __init__(
        self, websocket: Websocket, store: Store, streams: Streams, connection: Connection, wanted: Wanted
    ) -> None:
        super().__init__(websocket, streams)
        self._store = store
        self._connection = connection
        self._flow = self._flow_of(Feed(store, wanted.after, Filter.of(wanted)))

    async def next(self) -> Iterable[bytes]:
        """Let events out; return what the client has not taken at once."""
        return [rest] if (rest := await self._flow.run()) else []

    async def tell(self, message: str | bytes) -> None:
        """Send frames that were left over."""
        assert isinstance(message, bytes)  # noqa: S101 - for the type checker: `next` returns nothing else
        await self._connection.write(message)

    def hear(self, said: str | bytes) -> Close | None:
        """Subscribe anew."""
        if not isinstance(said, str):
            return Close(NOT_TEXT, "only text is read here")
        try:
            self._subscribe(validate_body(Message, parse_object(said.encode())).subscribe)
        except (problem.RequestRefused, UnicodeEncodeError) as error:
            return Close.telling(REFUSED, error)
        self.wake()
        return None

    def _subscribe(self, asked: Subscribe) -> None:
        self._flow.ended = True
        after = self._flow.cursor if asked.after is None else asked.after
        self._flow = self._flow_of(Feed(self._store, after, Filter.of(asked)))

    def _flow_of(self, feed: Feed) -> Flow:
        return Flow(self._streams, feed, self._connection, Form.WEBSOCKET)
