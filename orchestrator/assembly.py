"""The composition root: opens every part in order, runs them, and closes them in reverse.

The nesting of the nurseries is the order of the shutdown: agents end first, then the API closes its streams,
then the journal drains. A service that fails stops the process, and the service manager's restart heals by
recovery.
"""

from __future__ import annotations

import gc
import logging
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from socket import socket

import trio
from quart_trio import QuartTrio

from orchestrator.api.app import create_app
from orchestrator.api.server import open_listeners, run_server
from orchestrator.api.services import Services
from orchestrator.config import Settings
from orchestrator.core import events as e
from orchestrator.core.watermark import WATERMARKS
from orchestrator.fitting import admin_token, keep_secrets, open_repositories, open_tools
from orchestrator.isolation import find_own_claude, open_backend
from orchestrator.journal.store import Store, open_store
from orchestrator.logline import set_up_logging
from orchestrator.mirror.address import Address as ValkeyAddress
from orchestrator.mirror.valkey import ValkeyMirror
from orchestrator.supervise.desk import Desk
from orchestrator.supervise.gear import Tools
from orchestrator.supervise.host import look_around
from orchestrator.supervise.liveness import Attendant
from orchestrator.supervise.radar import Scout
from orchestrator.supervise.reaper import Reaper
from orchestrator.supervise.restarts import crashed_starts, hold_back, let_go
from orchestrator.supervise.signals import SIGNALS, run_until_signalled
from orchestrator.supervise.supervisor import Supervisor
from orchestrator.supervise.watchdog import Watchdog
from orchestrator.version import VERSION
from sandbox.base import Backend
from sandbox.spawn import stand_firm

log = logging.getLogger(__name__)

#: From the last agent's end to the end of the last stream.
API_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where a running supervisor can be reached."""

    url: str
    socket: Path
    sandbox: str


def utc_now() -> datetime:
    """Return the wall clock's time: for display and for retries' due times, never for durations."""
    return datetime.now(UTC)


def new_id() -> str:
    """Return a fresh opaque id."""
    return str(uuid.uuid4())


async def serve(settings: Settings, *, ready: Callable[[Address], None] | None = None) -> None:
    """Run the supervisor in the foreground until SIGTERM or SIGINT."""
    set_up_logging(settings.log_level, settings.log_format)
    for name in settings.unused:
        log.warning("a setting has no effect in this version", extra={"setting": name})
    if not stand_firm():
        log.info("the kernel may end this process where memory runs out (OOMScoreAdjust= in its unit)")
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with (
            open_store(settings.home, settings.database_path, clock=utc_now, new_id=new_id) as store,
            open_backend(settings) as backend,  # after the store, which holds the directory's lock
            trio.open_nursery() as services,
        ):
            await services.start(store.run)
            await _serve_on(settings, backend, store, signals, ready)
            services.cancel_scope.cancel(reason="shutdown")
    log.info("stopped")


async def _serve_on(
    settings: Settings,
    backend: Backend,
    store: Store,
    signals: AsyncIterator[int],
    ready: Callable[[Address], None] | None,
) -> None:
    """Recover, then run the supervisor and the API until a signal."""
    mirror = ValkeyMirror(store, ValkeyAddress.of(settings.valkey_url), utc_now)
    scanner, redactor = keep_secrets(settings, store)
    repositories = open_repositories(settings, backend)
    tools = open_tools(settings, store, repositories, scanner, await find_own_claude(settings, backend))
    timeout_s, takes_work = settings.agent_timeout_s, settings.enable_queue_processor
    supervisor = Supervisor(
        store, tools, backend, timeout_s=timeout_s, takes_work=takes_work, clock=utc_now, new_id=new_id
    )
    reaper = Reaper(tools, backend, running=supervisor.running)
    await reaper.recover()
    crashed = await crashed_starts(store, utc_now())
    await store.record(
        e.SystemStarted(
            version=VERSION,
            sandbox=backend.name,
            max_agents=settings.max_concurrent_agents,
            queue_concurrency=settings.queue_concurrency,
            max_queued=settings.max_queued_tasks,
        )
    )
    hold_s = await hold_back(store, crashed, utc_now(), settings.restart_hold_s)
    desk = _open_desk(settings, tools, supervisor)
    app = create_app(
        _services(settings, backend, supervisor, desk, reaper=reaper, mirror=mirror, redact=redactor.text)
    )
    listeners = open_listeners(settings.host, settings.port, settings.socket_path)
    port = listeners[0].getsockname()[1]
    address = Address(f"http://{_bracketed(settings.host)}:{port}", settings.socket_path, backend.name)
    shutdown = trio.Event()
    async with trio.open_nursery() as front:
        front.start_soon(_run_api, app, listeners, shutdown)
        log.info("ready", extra={"url": address.url, "socket": str(address.socket), "sandbox": backend.name})
        if ready is not None:
            ready(address)
        look, lives = partial(look_around, (settings.home, settings.workspaces_dir)), supervisor.lives
        eyes = (Watchdog(lives, look).run, Attendant(lives).run, Scout(lives).run)
        beside = (tools.scanner.run, reaper.run, mirror.run, *eyes, partial(let_go, store, hold_s))
        await run_until_signalled(supervisor, store, signals, look, *beside)
        shutdown.set()
    with suppress(FileNotFoundError):
        settings.socket_path.unlink()


def _open_desk(settings: Settings, tools: Tools, supervisor: Supervisor) -> Desk:
    """Return who answers about tasks and agents."""
    return Desk(
        tools.store,
        tools.repositories,
        supervisor,
        tools.runtimes,
        tools.purse,
        tools.gates,
        tools.protected,
        sandboxed=settings.sandbox_enabled,
        judges=tools.judges,
    )


def _services(
    settings: Settings,
    backend: Backend,
    supervisor: Supervisor,
    desk: Desk,
    *,
    reaper: Reaper,
    mirror: ValkeyMirror,
    redact: Callable[[str], str],
) -> Services:
    store = desk.store

    async def readiness() -> dict[str, str]:
        short = store.state.control.short
        free_mb = shutil.disk_usage(settings.home).free // 2**20
        return {
            "journal": "failed: the disk is short" if store.room.short else "ok",
            "sandbox": backend.name,
            "disk": "ok" if free_mb >= WATERMARKS["disk"] else f"failed: only {free_mb} MB are free",
            "host": f"degraded: short of {', '.join(sorted(short))}" if short else "ok",
            "valkey": mirror.condition,
            "coordinator": await desk.judges.condition(),
        }

    return Services(
        store=store,
        kill_switch=supervisor,
        switches=supervisor.switches,
        check_task=desk.check_task,
        diff=desk.diff,
        resources=desk.resources,
        terminal=desk.runtimes.terminal,
        collect_garbage=reaper.collect_garbage,
        compare_mirror=mirror.compare,
        salvages=reaper.keepsakes,
        enforced=tuple(sorted(backend.enforced)),
        watched=tuple(sorted(backend.watched)),
        tier=backend.tier,
        readiness=readiness,
        allowed_hosts=settings.allowed_hosts,
        allowed_origins=settings.allowed_origins,
        api_key=admin_token(settings),
        yolo=settings.yolo_mode,
        redact=redact,
        version=VERSION,
        new_id=new_id,
        clock=utc_now,
        started=trio.current_time(),
    )


async def _run_api(app: QuartTrio, listeners: list[socket], shutdown: trio.Event) -> None:
    gc.freeze()  # what is there by now stays: a look at all of it took 0.1 s, in which no kill was heard
    await run_server(app, listeners, shutdown=shutdown, grace_s=API_GRACE_S)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
