"""The client for scripts that know nothing of Trio: the same calls, each to its end.

The invariant: nothing of a call outlives it, no connection and no thread; a Ctrl-C ends it like any other.
Inside of Trio use `client`, which this is a façade of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial, wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import trio

from orchestrator.client import Client, ClientError, Unreachable, open_client
from orchestrator.client_stream import Json

__all__ = ["BlockingClient", "ClientError", "Unreachable"]

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    call: Callable[Concatenate[Client, P], Awaitable[T]],
) -> Callable[Concatenate[BlockingClient, P], T]:
    """Return a call of the client as one that is over when it returns."""

    @wraps(call)
    def blocked(self: BlockingClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(lambda client: call(client, *args, **kwargs))

    return blocked


class BlockingClient:
    """Calls of the API, over TCP or with `socket` over the unix socket, where the owner needs no token."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:3001",
        *,
        socket: Path | str | None = None,
        token: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self._open = partial(open_client, base_url, socket=socket, token=token, timeout_s=timeout_s)

    def run(self, ask: Callable[[Client], Awaitable[T]]) -> T:
        """Return what an asynchronous function comes to that is given the client: for what is not here."""

        async def connected() -> T:
            async with self._open() as client:
                return await ask(client)

        return trio.run(connected)

    health = _blocking(Client.health)
    ready = _blocking(Client.ready)
    spawn = _blocking(Client.spawn)
    wait = _blocking(Client.wait)
    status = _blocking(Client.status)
    agents = _blocking(Client.agents)
    retry = _blocking(Client.retry)
    message = _blocking(Client.message)
    transcript = _blocking(Client.transcript)
    gates = _blocking(Client.gates)
    diff = _blocking(Client.diff)
    kill = _blocking(Client.kill)
    kill_all = _blocking(Client.kill_all)
    freeze = _blocking(Client.freeze)
    thaw = _blocking(Client.thaw)
    drain = _blocking(Client.drain)
    submit_task = _blocking(Client.submit_task)
    tasks = _blocking(Client.tasks)
    task = _blocking(Client.task)
    cancel = _blocking(Client.cancel)
    requeue = _blocking(Client.requeue)
    queue_stats = _blocking(Client.queue_stats)
    queue_pause = _blocking(Client.queue_pause)
    queue_resume = _blocking(Client.queue_resume)

    def follow(
        self,
        tell: Callable[[Json], object],
        *,
        after: int | None = None,
        types: Iterable[str] = (),
        agent_id: str | None = None,
        task_id: str | None = None,
    ) -> int | None:
        """Call `tell` with each event as it comes, until it returns something true.

        Returns the cursor, from which `after` goes on another time.
        """

        async def read(client: Client) -> int | None:
            events = client.events(after=after, types=types, agent_id=agent_id, task_id=task_id)
            async for event in events:
                if tell(event):
                    break
            return events.cursor

        return self.run(read)
