"""How a command ends: its exit status, one line or one problem document, and nothing beside."""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.__main__ import COMMANDS, main
from orchestrator.cli.loading import loading

ROOT = Path(__file__).parents[2]


def run(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as an operator would."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments],
        env={**base_environment(home), **environment},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def base_environment(home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "ORCHESTRATOR_HOME": str(home / "state"),
        "ORCHESTRATOR_PORT": "1",  # nobody listens there
    }


def loaded_by(code: str, home: Path) -> set[str]:
    """Return what is imported once a fresh interpreter has run this, and whatever words that printed."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        env=base_environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_help_names_every_command_and_imports_none(tmp_path: Path) -> None:
    done = run("--help", home=tmp_path)
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    loaded = loaded_by("from orchestrator.__main__ import main; main(['--help'])", tmp_path)
    assert {"click", "orchestrator.cli.program"} <= loaded
    assert not {"trio", "rich", "httpx2", "quart", "hypercorn", "pydantic", "orchestrator.client"} & loaded


def test_a_supervisor_starts_without_what_only_some_agents_need(tmp_path: Path) -> None:
    loaded = loaded_by("import orchestrator.assembly", tmp_path)
    assert {"trio", "orchestrator.agents.claude.runtime", "orchestrator.agents.acp.runtime"} <= loaded
    assert not {"anthropic", "acp", "httpx2", "rich", "claude_agent_sdk"} & loaded


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: orchestrator {name}")
    assert name in {"mirror", "queue", "salvage"} or "--json" in shown


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("orchestrator ")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("list", "--nonsense"),
        ("status",),
        ("kill",),
        ("list", "--limit", "0"),
        ("spawn", "--priority", "11"),
        ("spawn",),
        ("queue", "nonsense"),
        ("list", "--token-file", "/no/such/file"),
    ],
)
def test_usage_is_2_and_one_problem_under_json(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err
    assert said.out == ""
    assert main([*arguments, "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert {"type", "title", "code", "detail"} <= set(json.loads(said.err))


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("kill", "a"),
        ("events", "-f"),
        ("spawn", "--repository", "https://example.org/r.git", "--", "true"),
    ],
)
def test_unreachable_is_3_with_the_address_and_the_fix(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*arguments, home=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert "http://127.0.0.1:1" in done.stderr
    assert "orchestrator serve" in done.stderr


def test_unreachable_is_a_problem_document_under_json(tmp_path: Path) -> None:
    done = run("list", "--json", "--url", "http://localhost:1", home=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    problem = json.loads(done.stderr)
    assert problem["code"] == "unreachable"
    assert "http://localhost:1" in problem["detail"]
    assert "orchestrator serve" in problem["fix"]


def test_json_of_a_command_after_the_dashes_is_not_ours(tmp_path: Path) -> None:
    done = run("spawn", "--repository", "https://example.org/r.git", "--", "agent", "--json", home=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("orchestrator: ")


def test_bad_setting_is_2_and_names_the_variable(tmp_path: Path) -> None:
    done = run("list", home=tmp_path, ORCHESTRATOR_PORT="high")
    assert (done.returncode, done.stdout) == (2, "")
    assert "ORCHESTRATOR_PORT='high'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "--help"],
            env=base_environment(tmp_path),
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("arguments", ["--help", "--version", "list --help"])
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path, arguments: str, redirection: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m orchestrator {arguments} {redirection}', sys.executable],
        env=base_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("orchestrator: the output cannot be written: ")


def test_message_that_cannot_be_written_leaves_the_status(tmp_path: Path) -> None:
    for redirection in ("2>/dev/full", "2>&-"):
        done = subprocess.run(
            ["sh", "-c", f'"$0" -m orchestrator nonsense {redirection}', sys.executable],
            env=base_environment(tmp_path),
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize(
    ("backend", "why"), [("podman", "set SANDBOX_IMAGE"), ("process", "SANDBOX_ENABLED=false")]
)
def test_sandbox_that_cannot_be_is_2_and_names_the_variable(tmp_path: Path, backend: str, why: str) -> None:
    done = run("serve", home=tmp_path, SANDBOX_BACKEND=backend, ORCHESTRATOR_PORT="0", LOG_LEVEL="error")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert f"SANDBOX_BACKEND={backend!r}" in done.stderr
    assert why in done.stderr


def test_relative_home_is_refused_and_litters_nothing(tmp_path: Path) -> None:
    done = run("serve", home=tmp_path, ORCHESTRATOR_HOME="state")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "ORCHESTRATOR_HOME='state'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_thin_entry_is_the_same_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "orchestrator.py"), "--version"],
        env={"PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == run("--version", home=tmp_path).stdout


def test_interrupt_ends_with_130_and_without_a_word(tmp_path: Path) -> None:
    # A listener that accepts and never answers: the command waits for as long as it is let.
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "events", "-f", "--url", url],
            env=base_environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as command:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(1)
                command.send_signal(signal.SIGINT)
                out, err = command.communicate(timeout=20)
    assert (command.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize("url", ["ftp://localhost:21", "localhost:3001", "http://", "http://localhost:99999"])
def test_address_that_can_be_no_supervisors_is_a_usage_error(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "some-agent", "--url", url, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "must be http://HOST:PORT" in json.loads(err)["detail"]


@pytest.mark.parametrize("command", COMMANDS)
def test_failure_under_json_is_one_document_of_every_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--json", "--no-such-option"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["code"] == "usage"


@pytest.mark.parametrize(
    "arguments",
    [
        ["spawn", "--repository", "https://git.example.org/a.git", "--", "true"],
        ["status", "a"],
        ["list"],
        ["logs", "a"],
        ["logs", "-f", "a"],
        ["events"],
        ["events", "-f"],
        ["kill", "a"],
        ["kill-all"],
        ["retry", "a"],
        ["diff", "a"],
        ["queue", "stats"],
        ["queue", "pause"],
        ["queue", "resume"],
        ["queue", "settings"],
    ],
    ids=" ".join,
)
def test_supervisor_out_of_reach_is_one_document_of_every_command(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    assert main([*arguments[:at], "--url", "http://127.0.0.1:1", "--json", *arguments[at:]]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["code"] == "unreachable"


def test_garbage_is_looked_for_again_after_loading_whether_it_went_well_or_not() -> None:
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), loading():
        importlib.import_module("orchestrator.nowhere")
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()
