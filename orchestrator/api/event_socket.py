"""Events over a WebSocket, and the client's word for which ones, which it may change at any time.

The invariant: after a new subscription nothing of the old one goes out any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from quart import Websocket

from orchestrator.api import problem
from orchestrator.api.dialogue import NOT_TEXT, REFUSED, Close, Dialogue
from orchestrator.api.feed import Feed, Message, Subscribe, Wanted, gap_text
from orchestrator.api.route import validate_body
from orchestrator.api.stream import Streams
from orchestrator.api.strict_json import parse_object
from orchestrator.core.events import Recorded
from orchestrator.journal.bus import Gap
from orchestrator.journal.store import Store


class EventSocket(Dialogue):
    """One client that is told of events."""

    def __init__(
        self, websocket: Websocket, store: Store, streams: Streams, capacity: int, wanted: Wanted
    ) -> None:
        super().__init__(websocket, streams)
        self._store = store
        self._capacity = capacity
        self._feed = Feed.of(store, wanted, wanted.after, capacity)

    async def run(self) -> None:
        """See `Dialogue`; what is held for the client is given up at the end."""
        try:
            await super().run()
        finally:
            self._feed.close()

    async def next(self) -> Iterable[str]:
        """Wait for events."""
        feed = self._feed
        return self._texts(feed, await feed.batch())

    def _texts(self, feed: Feed, items: list[Recorded | Gap]) -> Iterator[str]:
        for item in items:
            if feed is not self._feed:
                return  # the client has asked for something else meanwhile
            yield gap_text(item) if isinstance(item, Gap) else self._streams.encode(item).text

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
        old = self._feed
        self._feed = Feed(
            self._store,
            after=asked.after if asked.after is not None else old.cursor,
            types=asked.names,
            agent_id=asked.agent_id,
            task_id=asked.task_id,
            capacity=self._capacity,
        )
        old.close()
