"""The composition root: opens every part in order, runs them, and closes them in reverse.

The nesting of the nurseries is the order of the shutdown: agents end first, then the API closes its streams,
then the journal drains. A service that fails stops the process, and the service manager's restart heals by
recovery.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
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

from orchestrator.agents.claude_cli import Program
from orchestrator.agents.prices import read_prices
from orchestrator.agents.provider import Provider
from orchestrator.agents.purse import Purse
from orchestrator.agents.registry import make_runtimes
from orchestrator.api.app import create_app
from orchestrator.api.server import open_listeners, run_server
from orchestrator.api.services import Services
from orchestrator.config import Settings
from orchestrator.core import events as e
from orchestrator.core import spec
from orchestrator.core.admission import Ceilings
from orchestrator.core.egress import Allowance, Rules
from orchestrator.core.liveness import Patience
from orchestrator.core.watermark import WATERMARKS
from orchestrator.errors import SettingsError
from orchestrator.gates.judges import make_judges
from orchestrator.gates.registry import make_gates
from orchestrator.isolation import find_own_claude, open_backend, scratch_of
from orchestrator.journal.store import Store, open_store
from orchestrator.logline import set_up_logging
from orchestrator.repo.bare import Identity
from orchestrator.repo.repositories import Repositories
from orchestrator.repo.url import UrlRules
from orchestrator.review.registry import make_reviewer
from orchestrator.secrets.held import held_values, installation_key
from orchestrator.secrets.scan import Scanner
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
from sandbox.base import Backend, Limits
from sandbox.spawn import stand_firm

log = logging.getLogger(__name__)

#: From the last agent's end to the end of the last stream.
API_GRACE_S = 5.0
MIN_TOKEN_LENGTH = 16


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
    repositories = open_repositories(settings, backend)
    tools = _open_tools(settings, store, repositories, await find_own_claude(settings, backend))
    supervisor = Supervisor(
        store,
        tools,
        backend,
        timeout_s=settings.agent_timeout_s,
        takes_work=settings.enable_queue_processor,
        clock=utc_now,
        new_id=new_id,
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
    app = create_app(_services(settings, backend, store, supervisor, desk, reaper=reaper))
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
        beside = (tools.scanner.run, reaper.run, *eyes, partial(let_go, store, hold_s))
        await run_until_signalled(supervisor, store, signals, look, *beside)
        shutdown.set()
    with suppress(FileNotFoundError):
        settings.socket_path.unlink()


def _open_tools(settings: Settings, store: Store, repositories: Repositories, own: Program | None) -> Tools:
    """Return what all runs work with."""
    if settings.yolo_mode:
        log.warning("YOLO_MODE: quality gates disabled")
    return Tools(
        store,
        repositories,
        scratch_of(settings),
        ceilings(settings),
        yolo=settings.yolo_mode,
        protected=settings.protected_branches,
        salvage_keep_days=settings.salvage_keep_days,
        skills_dir=settings.skills_dir,
        runtimes=make_runtimes(settings, own),
        gates=make_gates(make_reviewer(settings), ai_share_max=settings.ai_share_max),
        judges=make_judges(settings),
        provider=Provider(
            Ceilings(settings.provider_concurrency, settings.provider_tokens_per_minute),
            patience_s=settings.provider_patience_s,
        ),
        purse=open_purse(settings),
        egress=Rules.of(settings.sandbox_egress, Allowance(settings.egress_up_mb, settings.egress_down_mb)),
        scanner=Scanner(held_values(settings, admin_token(settings)), installation_key(settings.home)),
        patience=Patience(settings.agent_boot_s, settings.agent_turn_s, settings.agent_stall_s),
    )


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


def open_purse(settings: Settings) -> Purse:
    """Return what may be spent on models; raises `SettingsError` where the prices cannot be read."""
    return Purse(
        read_prices(settings.model_prices),
        day=spec.Ceilings(cost_usd=settings.budget_day_usd, tokens=settings.budget_day_tokens),
        total=spec.Ceilings(cost_usd=settings.budget_total_usd, tokens=settings.budget_total_tokens),
    )


def ceilings(settings: Settings) -> Limits:
    """Return what an agent may use where its task asks for nothing else."""
    return Limits(
        memory_mb=settings.memory_mb, cpus=settings.cpus, pids=settings.pids, disk_mb=settings.disk_mb
    )


def open_repositories(settings: Settings, backend: Backend) -> Repositories:
    """Return the git side of this state directory."""
    return Repositories(
        settings.home,
        user=backend.user,
        layered=backend.layered,
        rules=UrlRules(file_roots=(settings.projects_dir,), hosts=settings.repository_hosts),
        identity=Identity(settings.git_user_name, settings.git_user_email),
        workspaces=settings.workspaces_dir,
    )


def _services(
    settings: Settings,
    backend: Backend,
    store: Store,
    supervisor: Supervisor,
    desk: Desk,
    *,
    reaper: Reaper,
) -> Services:
    async def readiness() -> dict[str, str]:
        short = store.state.control.short
        free_mb = shutil.disk_usage(settings.home).free // 2**20
        return {
            "journal": "failed: the disk is short" if store.room.short else "ok",
            "sandbox": backend.name,
            "disk": "ok" if free_mb >= WATERMARKS["disk"] else f"failed: only {free_mb} MB are free",
            "host": f"degraded: short of {', '.join(sorted(short))}" if short else "ok",
            "valkey": "off",
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
        salvages=reaper.keepsakes,
        enforced=tuple(sorted(backend.enforced)),
        watched=tuple(sorted(backend.watched)),
        tier=backend.tier,
        readiness=readiness,
        allowed_hosts=settings.allowed_hosts,
        allowed_origins=settings.allowed_origins,
        api_key=admin_token(settings),
        yolo=settings.yolo_mode,
        version=VERSION,
        new_id=new_id,
        clock=utc_now,
        started=trio.current_time(),
    )


def admin_token(settings: Settings) -> str:
    """Return the admin token: the one that was set, else the one kept in the state directory, made once."""
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    path = settings.token_path
    if not path.exists():
        # Linked into place when it is whole: a crash in between leaves no empty token.
        made = path.with_name(f"token.{secrets.token_hex(8)}")
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(descriptor)
        made.rename(path)
        log.info("made an admin token", extra={"path": str(path)})
    token = path.read_text().strip()
    if len(token) < MIN_TOKEN_LENGTH:
        raise SettingsError(f"{path} holds no token: remove it, and a new one is made at the next start")
    return token


async def _run_api(app: QuartTrio, listeners: list[socket], shutdown: trio.Event) -> None:
    gc.freeze()  # what is there by now stays: a look at all of it took 0.1 s, in which no kill was heard
    await run_server(app, listeners, shutdown=shutdown, grace_s=API_GRACE_S)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
