"""The client: every call of the API as a method, over TCP or the unix socket.

Used by the command line, by coordinators and by our own tests. Answers are the JSON objects of the API as
they came, shaped as `core.answer` says. A problem document becomes a `ClientError` with its `code`, and a
supervisor that does not answer becomes `Unreachable`. Only what is safe to repeat is repeated: reads, and the
creating calls, which carry an idempotency key. Streams resume by their cursor after a broken connection.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from orchestrator.client_http import Address, Broken, Response, ask
from orchestrator.client_socket import SocketEvents, TerminalSocket, open_websocket
from orchestrator.client_stream import (
    ClientError,
    EventStream,
    Json,
    LogLines,
    Query,
    Stream,
    Unreachable,
    pause,
    plain,
    refusal,
)
from orchestrator.client_words import body_of, object_of, path_of, salvage_of, wanted_events
from orchestrator.core.spec import TaskSpec

__all__ = [
    "Client",
    "ClientError",
    "EventStream",
    "LogLines",
    "SocketEvents",
    "TerminalSocket",
    "Unreachable",
    "open_client",
]

#: How often a call that is safe to repeat is tried.
TRIES = 4
#: Refusals that pass by themselves in a moment; whether to wait for a thaw or a shorter queue is the
#: caller's affair.
PASSING = frozenset({"rate_limited", "idempotency_in_flight", "idempotency_key_in_use"})
#: What a proxy in between answers.
GATEWAY = frozenset({502, 504})


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


class Client:
    """Calls of the API; made by `open_client`."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
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

    async def submit_task(self, spec: TaskSpec | Json, *, idempotency_key: str | None = None) -> Json:
        """Hand a task over without waiting for a slot."""
        return object_of(await self._create("/tasks", body_of(spec), idempotency_key))

    async def retry(self, agent_id: str, *, idempotency_key: str | None = None) -> Json:
        """Start a new agent for an ended agent's task."""
        return object_of(await self._create(path_of(agent_id, "retry"), None, idempotency_key))

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

    async def tasks(
        self, *, status: str | None = None, limit: int | None = None, after: str | None = None
    ) -> Json:
        """Return a page of tasks, newest first."""
        return object_of(await self._get("/tasks", {"status": status, "limit": limit, "after": after}))

    async def task(self, task_id: str) -> Json:
        """Return a task with its attempts and events."""
        return object_of(await self._get(f"/tasks/{quote(task_id, safe='')}"))

    async def cancel(self, task_id: str) -> Json:
        """Cancel a task; a live agent is killed."""
        response = await self._call("DELETE", f"/tasks/{quote(task_id, safe='')}", {}, None, {}, tries=1)
        return object_of(response.content)

    async def queue_stats(self) -> Json:
        """Return the queue at a glance."""
        return object_of(await self._get("/queue/stats"))

    async def queue_pause(self) -> Json:
        """Take nothing more from the queue."""
        return object_of(await self._post("/queue/pause"))

    async def queue_resume(self) -> Json:
        """Take work from the queue again."""
        return object_of(await self._post("/queue/resume"))

    async def gc(self, *, dry_run: bool = False) -> Json:
        """Remove what nobody needs on the host; with `dry_run` only tell what that is."""
        return object_of(await self._post("/gc", {"dryRun": dry_run or None}))

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

    async def _get(self, path: str, query: Query | None = None) -> bytes:
        return (await self._call("GET", path, query or {}, None, {}, tries=TRIES)).content

    async def _post(self, path: str, query: Query | None = None) -> bytes:
        return (await self._call("POST", path, query or {}, None, {}, tries=1)).content

    async def _create(self, path: str, body: bytes | None, key: str | None) -> bytes:
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return (await self._call("POST", path, {}, body, headers, tries=TRIES)).content

    async def _call(
        self, method: str, path: str, query: Query, body: bytes | None, headers: dict[str, str], *, tries: int
    ) -> Response:
        """Ask, as often as `tries` says while that may help, and return the answer or raise the refusal."""
        attempt = 1
        while True:
            try:
                response = await self._ask(method, path, query, body, headers)
            except Unreachable:
                if attempt == tries:
                    raise
                wait_s = 0.0
            else:
                if response.status < 400:
                    return response
                error = refusal(response)
                if attempt == tries or not (error.code in PASSING or error.status in GATEWAY):
                    raise error
                wait_s = error.retry_after_s
            await pause(attempt, wait_s)
            attempt += 1

    async def _ask(
        self, method: str, path: str, query: Query, body: bytes | None, headers: dict[str, str]
    ) -> Response:
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
        target = self._address.target(path, plain(query))
        try:
            return await ask(
                self._address, method, target, headers, body=body or b"", timeout_s=self._timeout_s
            )
        except Broken as error:
            detail = f"{self._address.url} does not answer: {error}"
            raise Unreachable(detail, nobody_listens=error.refused) from error
