"""Settings: every variable's default and reading, who wins, and one line for each value that will not do."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import Settings, load_settings
from orchestrator.errors import SettingsError
from orchestrator.settings.rows import ROWS

USER = 1000
KEY = "sk-very-secret-0123456789"

DEFAULTS: dict[str, Any] = {
    "home": Path("/s/orchestrator"),
    "host": "127.0.0.1",
    "port": 3001,
    "database_path": Path("/s/orchestrator/orchestrator.db"),
    "claude_api_key": None,
    "anthropic_base_url": None,
    "claude_model": None,
    "claude_code_path": None,
    "claude_models": (),
    "review_model": None,
    "ai_share_max": None,
    "valkey_url": None,
    "coordinator_url": None,
    "coordinator_token": None,
    "coordinator_port": 3002,
    "coordinator_patience_s": 0,
    "judges": "local",
    "sandbox_enabled": True,
    "sandbox_backend": "auto",
    "sandbox_image": None,
    "sandbox_user": None,
    "sandbox_read_only": (),
    "sandbox_path": "/usr/local/bin:/usr/bin:/bin",
    "sandbox_egress": (),
    "egress_up_mb": 64,
    "egress_down_mb": 4096,
    "setup_timeout_s": 900,
    "setup_cache_mb": 20480,
    "memory_mb": None,
    "cpus": 1.0,
    "pids": 512,
    "disk_mb": 10240,
    "max_concurrent_agents": 2,
    "queue_concurrency": 1,
    "agent_permissions": "allow",
    "agent_timeout_s": 3600,
    "restart_hold_s": 60,
    "provider_concurrency": 8,
    "provider_tokens_per_minute": None,
    "provider_patience_s": 1800,
    "budget_day_usd": None,
    "budget_day_tokens": None,
    "budget_total_usd": None,
    "budget_total_tokens": None,
    "model_prices": None,
    "agent_boot_s": 120,
    "agent_turn_s": 0,
    "agent_stall_s": None,
    "yolo_mode": False,
    "salvage_keep_days": 30,
    "protected_branches": ("HEAD", "main", "master"),
    "git_user_name": "Orchestrator",
    "git_user_email": "orchestrator@localhost",
    "github_token": None,
    "github_owner": None,
    "github_api_url": None,
    "gitea_token": None,
    "gitea_url": None,
    "event_dir": Path("/s/orchestrator/events"),
    "projects_dir": Path("/s/orchestrator/projects"),
    "workspaces_dir": Path("/s/orchestrator/workspaces"),
    "skills_dir": None,
    "repository_hosts": (),
    "max_queued_tasks": 100_000,
    "enable_queue_processor": True,
    "use_multi_agent_events": False,
    "api_key": None,
    "allowed_hosts": ("localhost", "127.0.0.1", "::1"),
    "allowed_origins": ("localhost", "127.0.0.1", "::1"),
    "log_level": "info",
    "log_format": "auto",
    "unused": (),
}


def load_as(uid: int, environ: dict[str, str]) -> Settings:
    """Load settings for a user whose state is under /s, where there is no file."""
    return load_settings({"XDG_STATE_HOME": "/s", **environ}, uid=uid)


def load(**environ: str) -> Settings:
    """Load an ordinary user's settings."""
    return load_as(USER, environ)


def in_file(folder: Path, text: str, mode: int = 0o600, **environ: str) -> Settings:
    """Load settings with a file that says `text`."""
    file = folder / "settings.toml"
    file.write_text(text)
    file.chmod(mode)
    return load(ORCHESTRATOR_CONFIG=str(file), **environ)


@pytest.mark.parametrize(("attribute", "value"), DEFAULTS.items())
def test_default(attribute: str, value: object) -> None:
    assert getattr(load(), attribute) == value


def test_every_setting_has_a_default_in_this_table() -> None:
    assert set(DEFAULTS) == set(Settings.__dataclass_fields__)


@pytest.mark.parametrize(
    ("variable", "text", "attribute", "value"),
    [
        ("ORCHESTRATOR_HOME", "/x", "database_path", Path("/x/orchestrator.db")),
        ("ORCHESTRATOR_HOST", "localhost", "host", "localhost"),
        ("ORCHESTRATOR_HOST", "[::1]", "host", "::1"),
        ("ORCHESTRATOR_HOST", "127.9.9.9", "host", "127.9.9.9"),
        ("ORCHESTRATOR_PORT", "0", "port", 0),
        ("PORT", "3020", "port", 3020),
        ("DATABASE_PATH", "/d/o.db", "database_path", Path("/d/o.db")),
        ("ANTHROPIC_BASE_URL", "http://10.0.0.1:8080/", "anthropic_base_url", "http://10.0.0.1:8080"),
        ("CLAUDE_MODEL", "claude-x", "claude_model", "claude-x"),
        ("CLAUDE_CODE_PATH", "/opt/claude", "claude_code_path", Path("/opt/claude")),
        ("REVIEW_MODEL", "claude-y", "review_model", "claude-y"),
        ("AI_SHARE_MAX", "0.5", "ai_share_max", 0.5),
        ("CLAUDE_MODELS", "claude-x, claude-haiku-*", "claude_models", ("claude-x", "claude-haiku-*")),
        (
            "COORDINATOR_URL",
            "http://coordinator:8000/base/",
            "coordinator_url",
            "http://coordinator:8000/base",
        ),
        ("COORDINATOR_URL", "http://coordinator:8000", "judges", "coordinator"),
        ("SANDBOX_ENABLED", "False", "sandbox_enabled", False),
        ("SANDBOX_ENABLED", "0", "sandbox_enabled", False),
        ("SANDBOX_ENABLED", "yes", "sandbox_enabled", True),
        ("SANDBOX_BACKEND", "Bubblewrap", "sandbox_backend", "bubblewrap"),
        ("SANDBOX_IMAGE", "docker.io/x:1", "sandbox_image", "docker.io/x:1"),
        (
            "SANDBOX_READ_ONLY",
            "/usr/lib: /usr/share:",
            "sandbox_read_only",
            (Path("/usr/lib"), Path("/usr/share")),
        ),
        ("SANDBOX_PATH", "/opt/bin:/bin", "sandbox_path", "/opt/bin:/bin"),
        ("SANDBOX_EGRESS", "pypi, *.Example.org", "sandbox_egress", ("pypi", "*.example.org")),
        ("SANDBOX_DEFAULT_MEMORY_MB", "1024", "memory_mb", 1024),
        ("SANDBOX_DEFAULT_CPUS", "0.5", "cpus", 0.5),
        ("SANDBOX_DEFAULT_PIDS", "64", "pids", 64),
        ("SANDBOX_DEFAULT_DISK_MB", "100", "disk_mb", 100),
        ("MAX_CONCURRENT_AGENTS", "10", "max_concurrent_agents", 10),
        ("ORCHESTRATOR_QUEUE_CONCURRENCY", "5", "queue_concurrency", 5),
        ("AGENT_TIMEOUT_SECONDS", "60", "agent_timeout_s", 60),
        ("AGENT_STALL_SECONDS", "0", "agent_stall_s", 0),
        ("YOLO_MODE", "true", "yolo_mode", True),
        ("GIT_USER_NAME", "Ann O'Nym", "git_user_name", "Ann O'Nym"),
        ("GIT_USER_EMAIL", "a@b.c", "git_user_email", "a@b.c"),
        ("GITHUB_OWNER", "acme", "github_owner", "acme"),
        ("GITHUB_API_URL", "https://ghe/api/v3", "github_api_url", "https://ghe/api/v3"),
        ("GITEA_URL", "https://gitea", "gitea_url", "https://gitea"),
        ("EVENT_DIR", "/e", "event_dir", Path("/e")),
        ("PROJECTS_DIR", "/p", "projects_dir", Path("/p")),
        ("WORKSPACES_DIR", "/w", "workspaces_dir", Path("/w")),
        ("SKILLS_DIR", "/s", "skills_dir", Path("/s")),
        (
            "REPOSITORY_HOSTS",
            "git.a.org,10.0.0.0/8,[::1]",
            "repository_hosts",
            ("git.a.org", "10.0.0.0/8", "::1"),
        ),
        ("MAX_QUEUED_TASKS", "3", "max_queued_tasks", 3),
        ("ENABLE_QUEUE_PROCESSOR", "off", "enable_queue_processor", False),
        ("USE_MULTI_AGENT_EVENTS", "on", "use_multi_agent_events", True),
        ("ALLOWED_HOSTS", "build.acme.org, ::1", "allowed_hosts", ("build.acme.org", "::1")),
        ("ALLOWED_ORIGINS", "https://Dash.acme.org:8443", "allowed_origins", ("https://dash.acme.org:8443",)),
        ("LOG_LEVEL", "DEBUG", "log_level", "debug"),
        ("LOG_FORMAT", "json", "log_format", "json"),
    ],
)
def test_variable_is_read(variable: str, text: str, attribute: str, value: object) -> None:
    assert getattr(load(**{variable: text}), attribute) == value


@pytest.mark.parametrize(
    ("variable", "text", "advice"),
    [
        ("ORCHESTRATOR_HOME", "~/state", "from / on"),
        ("ORCHESTRATOR_HOME", "state", "from / on"),
        ("DATABASE_PATH", "./o.db", "from / on"),
        ("PROJECTS_DIR", "projects", "from / on"),
        ("WORKSPACES_DIR", "../w", "from / on"),
        ("EVENT_DIR", "events", "from / on"),
        ("ORCHESTRATOR_HOME", "/proc/self", "/proc, /sys and /dev"),
        ("WORKSPACES_DIR", "/usr/../dev/x", "/proc, /sys and /dev"),
        ("DATABASE_PATH", "//sys/o.db", "/proc, /sys and /dev"),
        ("ORCHESTRATOR_HOME", "/" + "x" * 100, "use 89 bytes"),
        ("ORCHESTRATOR_HOST", "0.0.0.0", "127.0.0.1 behind a TLS proxy"),
        ("ORCHESTRATOR_HOST", "::", "127.0.0.1 behind a TLS proxy"),
        ("ORCHESTRATOR_HOST", "build.acme.org", "127.0.0.1 behind a TLS proxy"),
        ("ORCHESTRATOR_HOST", "localhost.acme.org", "127.0.0.1 behind a TLS proxy"),
        ("ORCHESTRATOR_HOST", "127.0.0.1:80", "without a port"),
        ("ORCHESTRATOR_PORT", "65536", "0 to 65535"),
        ("PORT", "http", "0 to 65535"),
        ("PORT", "-1", "0 to 65535"),
        ("PORT", "\uff13\uff10", "0 to 65535"),
        ("ANTHROPIC_BASE_URL", "api.anthropic.com", "https://host"),
        ("COORDINATOR_URL", "ftp://x", "https://host"),
        ("COORDINATOR_URL", "http://x:99999", "https://host"),
        ("COORDINATOR_URL", "http://x/?a=1", "leave out"),
        ("COORDINATOR_URL", "http://x/\ny", "https://host"),
        ("COORDINATOR_PORT", "65536", "0 to 65535"),
        ("GATES", "all", "local, coordinator or both"),
        ("GATES", "both", "set COORDINATOR_URL"),
        ("SANDBOX_ENABLED", "maybe", "true or false"),
        ("SANDBOX_BACKEND", "docker", "auto, podman, bubblewrap or process"),
        ("SANDBOX_USER", "nobody-here", "name or a number"),
        ("SANDBOX_USER", "root", "never run as root"),
        ("SANDBOX_USER", "0", "never run as root"),
        ("SANDBOX_USER", "00", "never run as root"),
        ("SANDBOX_USER", "1001", "leave it out"),
        ("SANDBOX_READ_ONLY", "relative", "absolute path"),
        ("SANDBOX_READ_ONLY", "/no/such/path", "exists"),
        ("SANDBOX_READ_ONLY", "/usr:/", "no agent may see"),
        ("SANDBOX_READ_ONLY", "/usr/../proc/1", "no agent may see"),
        ("SANDBOX_PATH", "/bin:", "absolute directories"),
        ("SANDBOX_EGRESS", "https://x.org", "host names"),
        ("SANDBOX_DEFAULT_MEMORY_MB", "1", "16 to"),
        ("SANDBOX_DEFAULT_CPUS", "nan", "0.05 to"),
        ("SANDBOX_DEFAULT_CPUS", "1e3", "0.05 to"),
        ("SANDBOX_DEFAULT_PIDS", "0", "8 to"),
        ("SANDBOX_DEFAULT_DISK_MB", "lots", "16 to"),
        ("MAX_CONCURRENT_AGENTS", "0", "1 to 10000"),
        ("ORCHESTRATOR_QUEUE_CONCURRENCY", "1.5", "1 to 10000"),
        ("AGENT_TIMEOUT_SECONDS", "0", "1 to 2592000"),
        ("YOLO_MODE", "2", "true or false"),
        ("GIT_USER_NAME", "a <b>", "no < and >"),
        ("GIT_USER_EMAIL", "a\nb@c", "one line"),
        ("REPOSITORY_HOSTS", "10.0.0.0/99", "networks"),
        ("MAX_QUEUED_TASKS", "many", "1 to 10000000"),
        ("ALLOWED_HOSTS", "*", "host name"),
        ("ALLOWED_ORIGINS", "https://a/?b", "leave out"),
        ("LOG_LEVEL", "loud", "debug, info, warning or error"),
        ("LOG_FORMAT", "xml", "auto, console or json"),
    ],
)
def test_bad_value_is_one_line_with_variable_value_and_advice(variable: str, text: str, advice: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**{variable: text})
    message = str(caught.value)
    assert message.startswith(f"{variable}={text!r}"[:60])
    assert advice in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "variable",
    [
        "CLAUDE_API_KEY",
        "ANTHROPIC_API_KEY",
        "GITHUB_TOKEN",
        "GITEA_TOKEN",
        "ORCHESTRATOR_API_KEY",
        "COORDINATOR_TOKEN",
    ],
)
def test_secret_comes_from_variable_file_or_credential_and_is_never_shown(
    tmp_path: Path, variable: str
) -> None:
    attribute = next(row.attribute for row in ROWS if variable in row.names)
    secret_file = tmp_path / variable.lower()
    secret_file.write_text(f"{KEY}\n")
    sources = [
        {variable: KEY},
        {f"{variable}_FILE": str(secret_file)},
        {"CREDENTIALS_DIRECTORY": str(tmp_path)},
    ]
    for environ in sources:
        settings = load(**environ)
        assert getattr(settings, attribute).get_secret_value() == KEY
        assert KEY not in repr(settings)
        assert KEY not in str(settings)


@pytest.mark.parametrize("bad", [f"{KEY} {KEY}", f"{KEY}\x01", f"{KEY}é"])
def test_message_about_a_bad_secret_does_not_show_it(tmp_path: Path, bad: str) -> None:
    (tmp_path / "key").write_text(bad)
    for environ in ({"CLAUDE_API_KEY": bad}, {"CLAUDE_API_KEY_FILE": str(tmp_path / "key")}):
        with pytest.raises(SettingsError, match=r"^CLAUDE_API_KEY \(not shown\)") as caught:
            load(**environ)
        assert KEY not in str(caught.value)
        assert caught.value.__cause__ is None


def test_key_that_opens_this_has_eight_characters_at_least() -> None:
    with pytest.raises(SettingsError, match=r"^ORCHESTRATOR_API_KEY \(not shown\) .* at least 8"):
        load(ORCHESTRATOR_API_KEY="seven77")
    key = load(ORCHESTRATOR_API_KEY="acc-0f1e").api_key
    assert key is not None
    assert key.get_secret_value() == "acc-0f1e"


def test_secret_and_its_file_are_not_both_set(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    path = str(tmp_path / "key")
    with pytest.raises(SettingsError, match=r"^GITHUB_TOKEN and GITHUB_TOKEN_FILE are both set: keep one"):
        load(GITHUB_TOKEN=KEY, GITHUB_TOKEN_FILE=path)
    with pytest.raises(SettingsError, match=r"both set in .*settings\.toml: keep one"):
        in_file(tmp_path, f"gitea_token = '{KEY}'\ngitea_token_file = '{path}'")


def test_valkey_url_may_hold_a_password_and_hides_it() -> None:
    settings = load(VALKEY_URL=f"redis://:{KEY}@valkey:6379/0")
    assert settings.valkey_url is not None
    assert settings.valkey_url.get_secret_value() == f"redis://:{KEY}@valkey:6379/0"
    with pytest.raises(SettingsError) as caught:
        load(VALKEY_URL=f"http://:{KEY}@valkey")
    assert KEY not in repr(settings) + str(caught.value)
    for after in ("?db=1", "/x", "/1/2", "#0"):
        with pytest.raises(SettingsError, match="a port and a database's number") as caught:
            load(VALKEY_URL=f"valkeys://:{KEY}@valkey:6379{after}")
        assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"VALKEY_HOST": "v"}, "valkey://v:6379"),
        ({"VALKEY_HOST": "::1", "VALKEY_PORT": "7000"}, "valkey://[::1]:7000"),
        ({"VALKEY_HOST": "v", "VALKEY_URL": "valkey://u:1"}, "valkey://u:1"),
        ({"VALKEY_PORT": "7000"}, None),
    ],
)
def test_valkey_may_be_named_by_host_and_port(environ: dict[str, str], url: str | None) -> None:
    found = load(**environ).valkey_url
    assert (found and found.get_secret_value()) == url


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_secret_file_that_is_missing_or_empty_is_an_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"^GITHUB_TOKEN_FILE=.*(No such file|empty)"):
        load(GITHUB_TOKEN_FILE=str(path))


def test_first_name_of_a_setting_wins_and_empty_counts_as_unset() -> None:
    assert load(ORCHESTRATOR_PORT="1", PORT="2").port == 1
    assert load(ORCHESTRATOR_PORT="", PORT="2").port == 2
    both = load(CLAUDE_API_KEY="mosaic", ANTHROPIC_API_KEY="sdk").claude_api_key
    assert both is not None
    assert both.get_secret_value() == "mosaic"


@pytest.mark.parametrize(
    ("uid", "environ", "home"),
    [
        (0, {}, "/var/lib/orchestrator"),
        (0, {"STATE_DIRECTORY": "/a:/b"}, "/a"),
        (USER, {"STATE_DIRECTORY": "/a"}, "/a"),
        (USER, {"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/orchestrator"),
        (USER, {"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/orchestrator"),
        (USER, {"HOME": "/h"}, "/h/.local/state/orchestrator"),
        (USER, {"ORCHESTRATOR_HOME": "/o", "STATE_DIRECTORY": "/a"}, "/o"),
    ],
)
def test_home_follows_service_manager_user_and_desktop(uid: int, environ: dict[str, str], home: str) -> None:
    settings = load_settings(environ, uid=uid)
    assert settings.home == Path(home)
    assert settings.token_path == Path(home) / "token"
    assert settings.socket_path == Path(home) / "orchestrator.sock"


def test_no_home_at_all_is_one_line() -> None:
    with pytest.raises(SettingsError, match="ORCHESTRATOR_HOME is not set, and neither is HOME"):
        load_settings({}, uid=USER)


def test_root_runs_agents_as_nobody_unless_told_whom() -> None:
    assert load_as(0, {}).sandbox_user == "nobody"
    assert load_as(0, {"SANDBOX_USER": "12345"}).sandbox_user == "12345"
    assert load(SANDBOX_USER=str(USER)).sandbox_user == str(USER)


def test_home_is_never_shown_to_agents(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    home = str(tmp_path / "home")
    for shown in (str(tmp_path), str(link)):
        with pytest.raises(SettingsError, match="would show ORCHESTRATOR_HOME"):
            load(ORCHESTRATOR_HOME=home, SANDBOX_READ_ONLY=shown)


def test_set_but_unused_settings_are_named_as_they_were_set(tmp_path: Path) -> None:
    settings = in_file(tmp_path, "gitea_url = 'https://g'", GITHUB_TOKEN="k", EVENT_DIR="/e", PORT="1")
    assert settings.unused == ("GITHUB_TOKEN", "GITEA_URL", "EVENT_DIR")


def test_file_sets_the_same_and_environment_wins(tmp_path: Path) -> None:
    text = """
        max_concurrent_agents = 7
        YOLO_MODE = true
        ORCHESTRATOR_PORT = 4000
        SANDBOX_DEFAULT_CPUS = 1.5
        sandbox_read_only = ["/usr/lib", "/usr/share"]
        allowed_hosts = ["a.org", "b.org"]
        GITHUB_TOKEN = "t"
    """
    settings = in_file(tmp_path, text, PORT="5000", ALLOWED_HOSTS="c.org")
    assert (settings.max_concurrent_agents, settings.yolo_mode, settings.cpus) == (7, True, 1.5)
    assert settings.port == 5000
    assert settings.sandbox_read_only == (Path("/usr/lib"), Path("/usr/share"))
    assert settings.allowed_hosts == ("c.org",)


def test_file_may_name_a_secrets_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    settings = in_file(tmp_path, f'CLAUDE_API_KEY_FILE = "{tmp_path}/key"', mode=0o644)
    assert settings.claude_api_key is not None
    assert settings.claude_api_key.get_secret_value() == KEY


def test_file_lies_in_the_home_directory(tmp_path: Path) -> None:
    (tmp_path / "orchestrator.toml").write_text("port = 9")
    assert load(ORCHESTRATOR_HOME=str(tmp_path)).port == 9
    assert load(STATE_DIRECTORY=str(tmp_path)).port == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_concurent_agents = 1",
            "'max_concurent_agents' in .* is no setting; the nearest is MAX_CONCURRENT_AGENTS",
        ),
        ("[sandbox]\nenabled = true", "'sandbox' in .* is no setting"),
        ("port = 1\nPORT = 2", "PORT stands twice"),
        ("port = ", "cannot be read as settings"),
        ("port = {a = 1}", "PORT in .* will not do: use a text"),
        ("port = 2020-01-01", "PORT in .* will not do: use a text"),
        ("port = [1]", "PORT in .* will not do: use a text"),
        ("port = 70000", r"PORT='70000' in .* will not do: use a whole number"),
        ("sandbox_read_only = ['/a:/b']", "'/a:/b' has a ':' in it"),
        ("port = '" + "x" * 2_000_000 + "'", "longer than"),
    ],
)
def test_file_with_a_mistake_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        in_file(tmp_path, text)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_file_that_everybody_may_read_holds_no_secret(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="GITHUB_TOKEN and everybody may read it") as caught:
        in_file(tmp_path, f"github_token = '{KEY}'", mode=0o644)
    assert KEY not in str(caught.value)
    assert in_file(tmp_path, f"github_token = '{KEY}'", mode=0o640).github_token is not None


def test_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read as settings"):
        load(ORCHESTRATOR_CONFIG=str(tmp_path / "none.toml"))


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load().port = 1  # type: ignore[misc]


@given(st.sampled_from(sorted({name for row in ROWS for name in row.names})), st.text(max_size=300))
def test_any_text_is_a_value_or_one_line(variable: str, text: str) -> None:
    message = ""
    try:
        load(**{variable: text})
    except SettingsError as error:
        message = str(error)
    assert "\n" not in message


def test_folder_closed_to_us_is_no_toolchain(reachable_path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("needs an ordinary user")
    closed = reachable_path / "closed"
    (closed / "tools").mkdir(parents=True)
    closed.chmod(0)
    with pytest.raises(SettingsError, match="exists"):
        load(SANDBOX_READ_ONLY=str(closed / "tools"))
    closed.chmod(0o700)


def test_a_coordinators_token_is_not_sent_in_the_open() -> None:
    for safe in ("https://judge.example.org", "http://127.0.0.1:3002", "http://[::1]:3002"):
        assert load(COORDINATOR_URL=safe, COORDINATOR_TOKEN=KEY).judges == "coordinator"
    with pytest.raises(SettingsError, match="use https://") as caught:
        load(COORDINATOR_URL="http://judge:3002", COORDINATOR_TOKEN=KEY)
    assert KEY not in str(caught.value)
