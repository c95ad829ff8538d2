"""The process `orchestrator coordinator`: opens its parts in order, serves until a signal, closes in reverse.

The invariant: it has a state directory of its own, `coordinator` in the orchestrator's, with a lock, so that
both run beside each other; nothing that an earlier life judged is left when the first question is answered. A
part that fails stops the process. Called by the command.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from orchestrator.api.server import open_listeners, run_server
from orchestrator.assembly import API_GRACE_S, new_id, utc_now
from orchestrator.client import Client, open_client
from orchestrator.config import Settings
from orchestrator.coordinator.app import Rooms, create_app
from orchestrator.coordinator.bench import Bench
from orchestrator.coordinator.dispatcher import Dispatcher, PreCheck
from orchestrator.coordinator.ledger import open_ledger
from orchestrator.fitting import admin_token, ceilings, egress, open_repositories
from orchestrator.gates.registry import make_gates
from orchestrator.isolation import open_backend
from orchestrator.logline import redact_log, set_up_logging
from orchestrator.secrets.held import HeldValue, held_values
from orchestrator.secrets.redactor import Redactor
from orchestrator.version import VERSION
from sandbox.spawn import stand_firm

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Tasks that are handed over at once: a repository that does not answer holds up no other.
WORKERS = 4


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """Where tasks are handed over to."""

    url: str
    socket: Path | None = None
    token: str | None = None

    def open(self) -> AbstractAsyncContextManager[Client]:
        """Return a connection to it."""
        return open_client(self.url, socket=self.socket, token=self.token)


def own_settings(settings: Settings) -> Settings:
    """Return the settings of the coordinator that runs beside an orchestrator of these settings."""
    home = settings.home / "coordinator"
    return replace(
        settings, home=home, workspaces_dir=home / "workspaces", api_key=settings.coordinator_token
    )


def redactor(settings: Settings, *tokens: str | None) -> Redactor:
    """Return what takes out of a text the secrets of the settings and the tokens of either door."""
    opening = tuple(HeldValue("token", token.encode()) for token in tokens if token)
    return Redactor((*held_values(settings), *opening))


async def serve(
    settings: Settings, orchestrator: Orchestrator, *, ready: Callable[[str], None] | None = None
) -> None:
    """Run the coordinator in the foreground until SIGTERM or SIGINT; `ready` is told its address."""
    set_up_logging(settings.log_level, settings.log_format)
    stand_firm()
    own = own_settings(settings)
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with (
            open_ledger(own.home, clock=utc_now, new_id=new_id) as ledger,
            open_backend(own) as backend,  # after the ledger, which holds the directory's lock
        ):
            redact = redactor(settings, admin_token(own), orchestrator.token).text
            redact_log(redact)
            repositories = open_repositories(own, backend)
            await repositories.sweep()
            for name in repositories.directories():
                await repositories.reap(name)
            gates = make_gates(ai_share_max=own.ai_share_max)
            dispatcher = Dispatcher(ledger, PreCheck(repositories, gates), orchestrator.open)
            await dispatcher.recover()
            bench = Bench(
                repositories,
                backend,
                gates,
                ceilings(own),
                places=own.max_concurrent_agents,
                egress=egress(own),
                setup_timeout_s=own.setup_timeout_s,
                new_id=new_id,
            )
            rooms = Rooms(
                bench=bench,
                dispatcher=dispatcher,
                ledger=ledger,
                allowed_hosts=own.allowed_hosts,
                allowed_origins=own.allowed_origins,
                api_key=admin_token(own),
                version=VERSION,
                redact=redact,
            )
            await _serve_on(own, rooms, signals, ready)
    log.info("stopped")


async def _serve_on(
    settings: Settings, rooms: Rooms, signals: AsyncIterator[int], ready: Callable[[str], None] | None
) -> None:
    listeners = open_listeners(settings.host, settings.coordinator_port, None)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listeners[0].getsockname()[1]}"
    shutdown = trio.Event()
    serve_app = partial(run_server, create_app(rooms), listeners, shutdown=shutdown, grace_s=API_GRACE_S)
    async with trio.open_nursery() as services:
        services.start_soon(serve_app)
        async with trio.open_nursery() as dispatching:
            for _ in range(WORKERS):
                dispatching.start_soon(rooms.dispatcher.run)
            log.info("ready", extra={"url": url})
            if ready is not None:
                ready(url)
            async for number in signals:
                log.info("stopping", extra={"signal": signal.Signals(number).name})
                break
            dispatching.cancel_scope.cancel(reason="shutdown")
        shutdown.set()
