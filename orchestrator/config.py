"""Environment and file to one frozen `Settings`: nobody else reads `os.environ`.

Every setting of the contract is one row of `ROWS`. The environment wins over the file, and the first of
several names over the others; an empty variable counts as unset. Whatever cannot be used is a `SettingsError`
of one line that names the variable, its value (never a secret's) and what would do. Called by the commands,
which hand the settings down.
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

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


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


HTTP = to.url("https", "http")
VALKEY = to.secret_url("valkey", "redis", "rediss")
BACKENDS = to.one_of("auto", "podman", "bubblewrap", "process")
LIST_OF_HOSTS = to.each(to.host_pattern)

ROWS = (
    Setting("home", ("ORCHESTRATOR_HOME",), to.path),
    Setting("host", ("ORCHESTRATOR_HOST",), to.host_name, "127.0.0.1"),
    Setting("port", ("ORCHESTRATOR_PORT", "PORT"), to.whole(0, 65535), 3001),
    Setting("database_path", ("DATABASE_PATH",), to.path),
    Setting("claude_api_key", ("CLAUDE_API_KEY", "ANTHROPIC_API_KEY"), to.secret, secret=True),
    Setting("anthropic_base_url", ("ANTHROPIC_BASE_URL",), HTTP),
    Setting("claude_model", ("CLAUDE_MODEL",), to.line),
    Setting("claude_models", ("CLAUDE_MODELS",), to.each(to.model_pattern), ()),
    Setting("review_model", ("REVIEW_MODEL",), to.line),
    Setting("ai_share_max", ("AI_SHARE_MAX",), to.decimal(0, 1)),
    Setting("claude_code_path", ("CLAUDE_CODE_PATH",), to.path),
    Setting("valkey_url", ("VALKEY_URL",), VALKEY, secret=True, unused=True),
    Setting("valkey_host", ("VALKEY_HOST",), to.host_name, unused=True),
    Setting("valkey_port", ("VALKEY_PORT",), to.whole(1, 65535), 6379, unused=True),
    Setting("coordinator_url", ("COORDINATOR_URL",), HTTP),
    Setting("coordinator_token", ("COORDINATOR_TOKEN",), to.token, secret=True),
    Setting("coordinator_port", ("COORDINATOR_PORT",), to.whole(0, 65535), 3002),
    Setting("coordinator_patience_s", ("COORDINATOR_PATIENCE_SECONDS",), to.whole(0, 30 * 86400), 0),
    Setting("judges", ("GATES",), to.one_of("local", "coordinator", "both")),
    Setting("sandbox_enabled", ("SANDBOX_ENABLED",), to.flag, default=True),
    Setting("sandbox_backend", ("SANDBOX_BACKEND",), BACKENDS, "auto"),
    Setting("sandbox_image", ("SANDBOX_IMAGE",), to.line),
    Setting("sandbox_user", ("SANDBOX_USER",), to.line),
    Setting("sandbox_read_only", ("SANDBOX_READ_ONLY",), to.each(to.toolchain, ":"), (), separator=":"),
    Setting("sandbox_path", ("SANDBOX_PATH",), to.search_path, "/usr/local/bin:/usr/bin:/bin", separator=":"),
    Setting("sandbox_egress", ("SANDBOX_EGRESS",), to.each(to.egress), ()),
    Setting("egress_up_mb", ("SANDBOX_EGRESS_UP_MB",), to.whole(1, 1 << 30), 64),
    Setting("egress_down_mb", ("SANDBOX_EGRESS_DOWN_MB",), to.whole(1, 1 << 30), 4096),
    Setting("memory_mb", ("SANDBOX_DEFAULT_MEMORY_MB",), to.whole(16, 1 << 24)),
    Setting("cpus", ("SANDBOX_DEFAULT_CPUS",), to.decimal(0.05, 4096), 1.0),
    Setting("pids", ("SANDBOX_DEFAULT_PIDS",), to.whole(8, 1 << 22), 512),
    Setting("disk_mb", ("SANDBOX_DEFAULT_DISK_MB",), to.whole(16, 1 << 30), 10240),
    Setting("max_concurrent_agents", ("MAX_CONCURRENT_AGENTS",), to.whole(1, 10_000), 2),
    Setting("queue_concurrency", ("ORCHESTRATOR_QUEUE_CONCURRENCY",), to.whole(1, 10_000), 1),
    Setting("agent_timeout_s", ("AGENT_TIMEOUT_SECONDS",), to.whole(1, 30 * 86400), 3600),
    Setting("provider_concurrency", ("PROVIDER_CONCURRENCY",), to.whole(1, 10_000), 8),
    Setting("provider_tokens_per_minute", ("PROVIDER_TOKENS_PER_MINUTE",), to.whole(1, 10**12)),
    Setting("provider_patience_s", ("PROVIDER_PATIENCE_SECONDS",), to.whole(1, 30 * 86400), 1800),
    Setting("budget_day_usd", ("BUDGET_DAY_USD",), to.decimal(0.000001, 1e6)),
    Setting("budget_day_tokens", ("BUDGET_DAY_TOKENS",), to.whole(1, 10**12)),
    Setting("budget_total_usd", ("BUDGET_TOTAL_USD",), to.decimal(0.000001, 1e6)),
    Setting("budget_total_tokens", ("BUDGET_TOTAL_TOKENS",), to.whole(1, 10**12)),
    Setting("model_prices", ("MODEL_PRICES",), to.path),
    Setting("restart_hold_s", ("RESTART_HOLD_SECONDS",), to.whole(0, 3600), 60),
    Setting("agent_boot_s", ("AGENT_BOOT_SECONDS",), to.whole(0, 86400), 120),
    Setting("agent_turn_s", ("AGENT_TURN_SECONDS",), to.whole(0, 30 * 86400), 0),
    Setting("agent_stall_s", ("AGENT_STALL_SECONDS",), to.whole(0, 30 * 86400)),
    Setting("agent_permissions", ("AGENT_PERMISSIONS",), to.one_of("allow", "deny"), "allow"),
    Setting("yolo_mode", ("YOLO_MODE",), to.flag, default=False),
    Setting("git_user_name", ("GIT_USER_NAME",), to.identity, "Orchestrator"),
    Setting("git_user_email", ("GIT_USER_EMAIL",), to.identity, "orchestrator@localhost"),
    Setting("salvage_keep_days", ("SALVAGE_KEEP_DAYS",), to.whole(0, 36500), 30),
    Setting(
        "protected_branches", ("PROTECTED_BRANCHES",), to.each(to.branch_pattern), ("HEAD", "main", "master")
    ),
    Setting("github_token", ("GITHUB_TOKEN",), to.secret, secret=True, unused=True),
    Setting("github_owner", ("GITHUB_OWNER",), to.line, unused=True),
    Setting("github_api_url", ("GITHUB_API_URL",), HTTP, unused=True),
    Setting("gitea_token", ("GITEA_TOKEN",), to.secret, secret=True, unused=True),
    Setting("gitea_url", ("GITEA_URL",), HTTP, unused=True),
    Setting("event_dir", ("EVENT_DIR",), to.path, unused=True),
    Setting("projects_dir", ("PROJECTS_DIR",), to.path),
    Setting("workspaces_dir", ("WORKSPACES_DIR",), to.path),
    Setting("skills_dir", ("SKILLS_DIR",), to.path),
    Setting("repository_hosts", ("REPOSITORY_HOSTS",), LIST_OF_HOSTS, ()),
    Setting("max_queued_tasks", ("MAX_QUEUED_TASKS",), to.whole(1, 10_000_000), 100_000),
    Setting("enable_queue_processor", ("ENABLE_QUEUE_PROCESSOR",), to.flag, default=True),
    Setting("use_multi_agent_events", ("USE_MULTI_AGENT_EVENTS",), to.flag, default=False, unused=True),
    Setting("api_key", ("ORCHESTRATOR_API_KEY",), to.token, secret=True),
    Setting("allowed_hosts", ("ALLOWED_HOSTS",), to.each(to.host_name), LOOPBACK_NAMES),
    Setting("allowed_origins", ("ALLOWED_ORIGINS",), to.each(to.origin), LOOPBACK_NAMES),
    Setting("log_level", ("LOG_LEVEL",), to.one_of("debug", "info", "warning", "error"), "info"),
    Setting("log_format", ("LOG_FORMAT",), to.one_of("auto", "console", "json"), "auto"),
)


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
