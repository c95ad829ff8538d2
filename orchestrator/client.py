"""The client: every call of the API as a method, over TCP or the unix socket.

Used by the command line, by coordinators and by our own tests. Answers are the API's JSON as it came, shaped
as `core.answer` says. A problem document becomes a `ClientError` with its `code`, no answer `Unreachable`.
Only reads are repeated, and creating calls, by an idempotency key. Streams resume by their cursor.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.client_calls import PASSING
from orchestrator.client_http import Address
from orchestrator.client_queue import QueueCalls
from orchestrator.client_socket import SocketEvents, TerminalSocket, open_websocket
from orchestrator.client_stream import (
    ClientError,
    EventStream,
    Json,
    LogLines,
    Stream,
    Unreachable,
    plain,
)
from orchestrator.client_words import body_of, object_of, path_of, salvage_of, wanted_events
from orchestrator.core.spec import TaskSpec

#: The events that an agent ends with, and what its status says from then on.
ENDS = ("agent.completed", "agent.failed", "agent.killed")
ENDED = ("completed", "failed", "killed")

__all__ = [
    "PASSING",
    "Client",
    "ClientError",
    "EventStream",
    "LogLines",
    "SocketEvents",
    "TerminalSocket",
    "Unreachable",
    "open_client",
]


@asynccontextmanager
async def open_client(
    base_url: str = "http://127.0.0.1:3001",
    *,
    socket: Path | str | None = None,
    token: str | None = None,
    timeout_s: float = 60.0,
) -> AsyncIterator[Client]:
    """Open a client; with `socket` it goes over the unix socket, where the owner needs no token."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "orchestrator-client"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    address = Address("http://localhost" if socket else base_url, Path(socket) if socket else None, headers)
    client = Client(address, timeout_s)
    try:
        yield client
    finally:
        client.close_streams()


class Client(QueueCalls):
    """Calls of the API; made by `open_client`."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        super().__init__(address, timeout_s)
        self._streams: list[Stream] = []

    async def health(self) -> Json:
        """Return that the process answers."""
        return object_of(await self._get("/health"))

    async def ready(self) -> Json:
        """Return whether work can be taken in; `not_ready` is an answer, not an error."""
        return object_of((await self._ask("GET", "/health/ready", {}, None, {})).content)

    async def spawn(self, spec: TaskSpec | Json, *, idempotency_key: str | None = None) -> Json:
        """Hand a task over and return its first agent; safe to repeat with the same key."""
        return object_of(await self._create("/agents/spawn", body_of(spec), idempotency_key))

    async def retry(self, agent_id: str, *, idempotency_key: str | None = None) -> Json:
        """Start a new agent for an ended agent's task."""
        return object_of(await self._create(path_of(agent_id, "retry"), None, idempotency_key))

    async def wait(self, agent_id: str, *, seen: Callable[[Json], object] = bool) -> Json:
        """Wait for an agent's end and return its status; each of its events is `seen`, from the first on."""
        async for event in self.events(agent_id=agent_id, after=0):
            seen(event)
            if event.get("type") in ENDS:
                break
            if "gap" in event and (await self.status(agent_id)).get("status") in ENDED:  # the end was in it
                break
        return await self.status(agent_id)

    async def status(self, agent_id: str) -> Json:
        """Return everything about one agent."""
        return object_of(await self._get(path_of(agent_id, "status")))

    async def agents(
        self,
        *,
        status: str | None = None,
        task_id: str | None = None,
        role: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Json:
        """Return a page of agents, newest first; `next` in it is the `after` of the next page."""
        query = {"status": status, "taskId": task_id, "role": role, "limit": limit, "after": after}
        return object_of(await self._get("/agents", query))

    async def kill(self, agent_id: str) -> Json:
        """End an agent and return the proof."""
        return object_of(await self._post(path_of(agent_id, "kill")))

    async def kill_all(self, *, freeze: bool = False) -> Json:
        """End every live agent and return the proof; with `freeze` nothing is admitted any more."""
        return object_of(await self._post("/agents/kill-all", {"freeze": freeze or None}))

    async def freeze(self) -> Json:
        """Stop every process and admit nothing, until thawed; return how the whole stands."""
        return object_of(await self._post("/freeze"))

    async def thaw(self) -> Json:
        """Let everything go on where it stood; where nothing is frozen, end a drain."""
        return object_of(await self._post("/thaw"))

    async def drain(self) -> Json:
        """Admit nothing, and let live agents end."""
        return object_of(await self._post("/drain"))

    async def message(self, agent_id: str, text: str, *, idempotency_key: str | None = None) -> Json:
        """Say something to a live agent; it waits until the agent can listen."""
        body = json.dumps({"text": text}).encode()
        return object_of(await self._create(path_of(agent_id, "message"), body, idempotency_key))

    async def transcript(self, agent_id: str, *, limit: int | None = None, after: str | None = None) -> Json:
        """Return a page of an agent's turns, oldest first; `next` in it is the `after` of the next page."""
        return object_of(await self._get(path_of(agent_id, "transcript"), {"limit": limit, "after": after}))

    async def gates(self, agent_id: str) -> Json:
        """Return what the gates said, with the evidence."""
        return object_of(await self._get(path_of(agent_id, "gates")))

    async def diff(self, agent_id: str) -> str:
        """Return the candidate's diff as text."""
        return (await self._get(path_of(agent_id, "diff"))).decode("utf-8", "replace")

    async def salvage(self, agent_id: str | None = None) -> Json:
        """Return the work that did not land and is kept; of one agent with its files."""
        return object_of(await self._get(salvage_of(agent_id)))

    async def salvage_patch(self, agent_id: str) -> str:
        """Return what is kept of an agent, as a patch."""
        return (await self._get(salvage_of(agent_id, "/patch"))).decode("utf-8", "replace")

    async def drop_salvage(self, agent_id: str) -> Json:
        """Keep the work of an agent no more."""
        answer = await self._call("DELETE", salvage_of(agent_id), {}, None, {}, tries=1)
        return object_of(answer.content)

    async def gc(self, *, dry_run: bool = False) -> Json:
        """Remove what nobody needs on the host; with `dry_run` only tell what that is."""
        return object_of(await self._post("/gc", {"dryRun": dry_run or None}))

    async def verify_mirror(self, *, repair: bool = False) -> Json:
        """Compare the mirror in Valkey with the journal; with `repair` put right what differs."""
        return object_of(await self._post("/mirror/verify", {"repair": repair or None}))

    def logs(
        self, agent_id: str, *, follow: bool = False, after: int | None = None, stream: str | None = None
    ) -> LogLines:
        """Return an agent's log lines; with `follow` they end when the agent has ended and all was read."""
        lines = LogLines(self._address, path_of(agent_id, "logs"), after, {"stream": stream}, follow=follow)
        self._streams.append(lines)
        return lines

    def events(
        self,
        *,
        follow: bool = True,
        after: int | None = None,
        types: Iterable[str] = (),
        agent_id: str | None = None,
        task_id: str | None = None,
    ) -> EventStream:
        """Return the events after a sequence number, or from now on; without `follow`, up to now."""
        query = wanted_events(None, types, agent_id, task_id)
        events = EventStream(self._address, "/events", after, query, follow=follow)
        self._streams.append(events)
        return events

    @asynccontextmanager
    async def open_socket(
        self,
        *,
        after: int | None = None,
        types: Iterable[str] = (),
        agent_id: str | None = None,
        task_id: str | None = None,
    ) -> AsyncIterator[SocketEvents]:
        """Open the same events over a WebSocket; its end is `Unreachable`, and `cursor` resumes."""
        target = self._address.target("/ws", plain(wanted_events(after, types, agent_id, task_id)))
        async with open_websocket(SocketEvents, self._address, target) as events:
            events.cursor = after
            yield events

    @asynccontextmanager
    async def open_terminal(
        self, agent_id: str, *, watch: bool = False, replay: bool = False
    ) -> AsyncIterator[TerminalSocket]:
        """Open an agent's terminal; first comes its screen, or with `replay` its last output as it was."""
        query = {"watch": watch or None, "start": "replay" if replay else None}
        target = self._address.target(path_of(agent_id, "terminal"), plain(query))
        async with open_websocket(TerminalSocket, self._address, target) as terminal:
            yield terminal

    def close_streams(self) -> None:
        """Close the streams that their readers left open."""
        for stream in self._streams:
            stream.close_nowait()
        self._streams.clear()
