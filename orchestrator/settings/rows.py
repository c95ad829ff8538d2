"""Every setting that there is: its names, how its text is read, and its default.

The defaults that follow from other settings are filled in by `config`, the only reader of this table.
"""

from __future__ import annotations

from orchestrator.settings import reader as to
from orchestrator.settings.reader import Setting

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
HTTP = to.url("https", "http")
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
    Setting("valkey_url", ("VALKEY_URL",), to.valkey_url, secret=True),
    Setting("valkey_host", ("VALKEY_HOST",), to.host_name),
    Setting("valkey_port", ("VALKEY_PORT",), to.whole(1, 65535), 6379),
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
    Setting("setup_timeout_s", ("SETUP_TIMEOUT_SECONDS",), to.whole(1, 86400), 900),
    Setting("setup_cache_mb", ("SETUP_CACHE_MB",), to.whole(0, 1 << 30), 20480),
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
