"""Environment and file to one frozen `Settings`: nobody else reads `os.environ`.

Every setting of the contract is one row of `settings.rows`. The environment wins over the file, and the first
of several names over the others; an empty variable counts as unset. Whatever cannot be used is a
`SettingsError` of one line that names the variable, its value (never a secret's) and what would do. Called by
the commands, which hand the settings down.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from orchestrator.errors import SettingsError
from orchestrator.settings import reader as to
from orchestrator.settings.reader import Setting
from orchestrator.settings.rows import ROWS
from orchestrator.settings.source import (
    Found,
    default_home,
    find,
    judge_sandbox_user,
    read_file,
    refusal,
    shown,
)

#: What fits into a unix socket's address.
MAX_SOCKET_PATH_BYTES = 107


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that an operator can set, with the defaults filled in."""

    home: Path
    host: str
    port: int
    database_path: Path
    claude_api_key: SecretStr | None
    anthropic_base_url: str | None
    claude_model: str | None
    #: Models, or globs of them, that an agent may use beside its own.
    claude_models: tuple[str, ...]
    #: The model that reviews; None is `claude_model`.
    review_model: str | None
    #: The most that agents may have written of what a branch adds, 0.0 to 1.0; None is any.
    ai_share_max: float | None
    #: The program of Claude Code; None is to be looked for.
    claude_code_path: Path | None
    valkey_url: SecretStr | None
    coordinator_url: str | None
    coordinator_token: SecretStr | None
    coordinator_port: int
    coordinator_patience_s: int
    #: local, coordinator or both.
    judges: str
    sandbox_enabled: bool
    #: auto, podman, bubblewrap or process.
    sandbox_backend: str
    sandbox_image: str | None
    #: Name or number of the host's user that agents run as; None is our own.
    sandbox_user: str | None
    sandbox_read_only: tuple[Path, ...]
    sandbox_path: str
    sandbox_egress: tuple[str, ...]
    #: What one agent may send there and receive, in all.
    egress_up_mb: int
    egress_down_mb: int
    #: Of a repository's set-up: its time where it says nothing, and what is kept of what all of them made.
    setup_timeout_s: int
    setup_cache_mb: int
    #: None leaves it to the runtime.
    memory_mb: int | None
    cpus: float
    pids: int
    disk_mb: int
    max_concurrent_agents: int
    queue_concurrency: int
    agent_timeout_s: int
    #: The longest that nothing is started after crash upon crash; 0 never holds.
    restart_hold_s: int
    #: Of each model: requests in flight, and tokens a minute (None: no ceiling).
    provider_concurrency: int
    provider_tokens_per_minute: int | None
    #: How long an agent waits for a provider that is away.
    provider_patience_s: int
    #: What all agents together may spend; None is no ceiling.
    budget_day_usd: float | None
    budget_day_tokens: int | None
    budget_total_usd: float | None
    budget_total_tokens: int | None
    #: A file of prices that come before ours.
    model_prices: Path | None
    #: 0 is no deadline; None that of the runtime.
    agent_boot_s: int
    agent_turn_s: int
    agent_stall_s: int | None
    #: What an agent hears that asks leave for a tool: `allow` or `deny`.
    agent_permissions: str
    yolo_mode: bool
    git_user_name: str
    git_user_email: str
    salvage_keep_days: int
    #: Globs of branches that nothing lands on; HEAD is the remote's default branch.
    protected_branches: tuple[str, ...]
    github_token: SecretStr | None
    github_owner: str | None
    github_api_url: str | None
    gitea_token: SecretStr | None
    gitea_url: str | None
    event_dir: Path
    #: The `file://` root that repositories may be under.
    projects_dir: Path
    workspaces_dir: Path
    #: Where the operator's skills are; None means that there are none.
    skills_dir: Path | None
    #: Empty means public addresses and the hosts of the configured forges.
    repository_hosts: tuple[str, ...]
    max_queued_tasks: int
    enable_queue_processor: bool
    use_multi_agent_events: bool
    #: None until the first start has made one, which is kept in `token_path`.
    api_key: SecretStr | None
    #: Host names and addresses, without ports; IPv6 without brackets.
    allowed_hosts: tuple[str, ...]
    #: Hosts, which stand for their origins, or whole origins.
    allowed_origins: tuple[str, ...]
    log_level: str
    #: auto (console on a terminal, else json), console or json.
    log_format: str
    #: The variables that are set although this version does nothing with them yet.
    unused: tuple[str, ...]

    @property
    def token_path(self) -> Path:
        """Where the admin token is kept."""
        return self.home / "token"

    @property
    def socket_path(self) -> Path:
        """Where the unix socket is."""
        return self.home / "orchestrator.sock"


def read_settings() -> Settings:
    """Read this process's settings."""
    return load_settings(os.environ, uid=os.getuid())


def load_settings(environ: Mapping[str, str], *, uid: int) -> Settings:
    """Read the settings of a process with this environment and user; raises `SettingsError`."""
    file = read_file(environ, uid, ROWS)
    values: dict[str, Any] = {}
    used: dict[str, Found] = {}
    for row in ROWS:
        values[row.attribute] = row.default
        if found := find(row, environ, file):
            used[row.attribute] = found
            values[row.attribute] = value_of(row, found)
    fill_in(values, default_home(environ, uid) if values["home"] is None else values["home"], uid)
    values["unused"] = tuple(used[row.attribute].name for row in ROWS if row.unused and row.attribute in used)
    settings = Settings(**values)
    judge(settings, used, uid)
    return settings


def value_of(row: Setting, found: Found) -> object:
    """Read one setting's text."""
    try:
        return row.read(found.text)
    except ValueError as error:
        raise refusal(found, str(error), hidden=row.secret) from None  # its cause may show a secret


def fill_in(values: dict[str, Any], home: Path, uid: int) -> None:
    """Fill in the defaults that follow from other settings."""
    follow: dict[str, object] = {
        "home": home,
        "database_path": home / "orchestrator.db",
        "event_dir": home / "events",
        "projects_dir": home / "projects",
        "workspaces_dir": home / "workspaces",
        "sandbox_user": "nobody" if uid == 0 else None,
        "judges": "local" if values["coordinator_url"] is None else "coordinator",
    }
    host, port = values.pop("valkey_host"), values.pop("valkey_port")
    if host is not None:
        bracketed = f"[{host}]" if ":" in host else host
        follow["valkey_url"] = SecretStr(f"valkey://{bracketed}:{port}")
    for attribute, value in follow.items():
        if values[attribute] is None:
            values[attribute] = value


def judge(settings: Settings, used: Mapping[str, Found], uid: int) -> None:
    """Refuse what is well written, one by one, but must not be."""
    if not to.is_loopback(settings.host):
        # Nothing here speaks TLS: a token would cross the network in the open.
        why = "is reachable from other machines, and there is no TLS: use 127.0.0.1 behind a TLS proxy"
        raise refusal(used["host"], why)
    if len(os.fsencode(settings.socket_path)) > MAX_SOCKET_PATH_BYTES:
        least = MAX_SOCKET_PATH_BYTES - len("/orchestrator.sock")
        shown_home = shown(str(settings.home))
        raise SettingsError(
            f"ORCHESTRATOR_HOME={shown_home} is too long for a unix socket: use {least} bytes"
        )
    home = settings.home.resolve()
    for path in settings.sandbox_read_only:
        if home.is_relative_to(path.resolve()):
            why = f"would show ORCHESTRATOR_HOME ({home}) to agents: name a directory that does not hold it"
            raise refusal(used["sandbox_read_only"], why)
    if settings.judges != "local" and settings.coordinator_url is None:
        raise refusal(used["judges"], "needs a coordinator: set COORDINATOR_URL, or leave it out")
    url = settings.coordinator_url
    if url and settings.coordinator_token and not to.is_encrypted_or_local(url):
        why = "would carry COORDINATOR_TOKEN in the open: use https://, or a coordinator on this machine"
        raise refusal(used["coordinator_url"], why)
    if "sandbox_user" in used:
        judge_sandbox_user(used["sandbox_user"], uid)
