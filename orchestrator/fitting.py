"""What the parts are given, made from the settings: the runs' tools, the git side, ceilings, the token.

Called by `assembly`, and by the coordinator, which has some of the same parts.
"""

from __future__ import annotations

import logging
import secrets
from functools import partial

from orchestrator.agents.claude_cli import Program
from orchestrator.agents.prices import read_prices
from orchestrator.agents.provider import Provider
from orchestrator.agents.purse import Purse
from orchestrator.agents.registry import make_runtimes
from orchestrator.config import Settings
from orchestrator.core import spec
from orchestrator.core.admission import Ceilings
from orchestrator.core.egress import Allowance, Rules
from orchestrator.core.liveness import Patience
from orchestrator.errors import SettingsError
from orchestrator.gates.judges import make_judges
from orchestrator.gates.registry import make_gates
from orchestrator.isolation import describe_tools, scratch_of
from orchestrator.journal.store import Store
from orchestrator.repo.bare import Identity
from orchestrator.repo.repositories import Repositories
from orchestrator.repo.url import UrlRules
from orchestrator.review.registry import make_reviewer
from orchestrator.secrets.held import held_values, installation_key, make_once
from orchestrator.secrets.redactor import Redactor
from orchestrator.secrets.scan import Scanner
from orchestrator.supervise.gear import Tools
from sandbox.base import MIB, Backend, Limits

log = logging.getLogger(__name__)

MIN_TOKEN_LENGTH = 16


def keep_secrets(settings: Settings, store: Store) -> tuple[Scanner, Redactor]:
    """Return what lets no secret leave, and what lets none of ours be written: journal and logs have it."""
    held = held_values(settings, admin_token(settings))
    redactor = Redactor(held)
    redactor.guard(store)
    return Scanner(held, installation_key(settings.home)), redactor


def open_tools(
    settings: Settings, store: Store, repositories: Repositories, scanner: Scanner, own: Program | None
) -> Tools:
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
        egress=egress(settings),
        scanner=scanner,
        patience=Patience(settings.agent_boot_s, settings.agent_turn_s, settings.agent_stall_s),
        setup_timeout_s=settings.setup_timeout_s,
    )


def open_purse(settings: Settings) -> Purse:
    """Return what may be spent on models; raises `SettingsError` where the prices cannot be read."""
    return Purse(
        read_prices(settings.model_prices),
        day=spec.Ceilings(cost_usd=settings.budget_day_usd, tokens=settings.budget_day_tokens),
        total=spec.Ceilings(cost_usd=settings.budget_total_usd, tokens=settings.budget_total_tokens),
    )


def egress(settings: Settings) -> Rules:
    """Return what may be reached outside."""
    return Rules.of(settings.sandbox_egress, Allowance(settings.egress_up_mb, settings.egress_down_mb))


def ceilings(settings: Settings) -> Limits:
    """Return what an agent may use where its task asks for nothing else."""
    return Limits(
        memory_mb=settings.memory_mb, cpus=settings.cpus, pids=settings.pids, disk_mb=settings.disk_mb
    )


def open_repositories(settings: Settings, backend: Backend) -> Repositories:
    """Return the git side of this state directory."""
    opened = Repositories(
        settings.home,
        user=backend.user,
        layered=backend.layered,
        rules=UrlRules(file_roots=(settings.projects_dir,), hosts=settings.repository_hosts),
        identity=Identity(settings.git_user_name, settings.git_user_email),
        workspaces=settings.workspaces_dir,
    )
    opened.preparations.configure(settings.setup_cache_mb * MIB, partial(describe_tools, settings, backend))
    return opened


def admin_token(settings: Settings) -> str:
    """Return the admin token: the one that was set, else the one kept in the state directory, made once."""
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    path = settings.token_path
    if make_once(path, f"{secrets.token_urlsafe(32)}\n".encode()):
        log.info("made an admin token", extra={"path": str(path)})
    token = path.read_text().strip()
    if len(token) < MIN_TOKEN_LENGTH:
        raise SettingsError(f"{path} holds no token: remove it, and a new one is made at the next start")
    return token
