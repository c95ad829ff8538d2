"""Claude Code through a real supervisor, where it cannot work, or has a network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.claude_code import claude_binary
from tests.kit.messages_api import ScriptedApi, script, scripted_api
from tests.kit.processes import fresh_mark
from tests.kit.remote import branches, git, make_remote
from tests.kit.service import Service
from tests.system.conftest import shared_root

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

KEY = "sk-of-the-account"
MODEL = "claude-sonnet-5-5"
SOON_S = 5.0


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    """Return an API that takes our key alone; each test has scripts of its own name."""
    claude_binary()
    with scripted_api(keep_bodies=True, keys=[KEY], models=[MODEL]) as running:
        yield running


@pytest.fixture(scope="module")
def service(api: ScriptedApi) -> Iterator[Service]:
    """Return a running supervisor with a key that most tests of this module share."""
    with shared_root() as root, Service(root, **settings_for(api)) as own:
        yield own


def settings_for(api: ScriptedApi) -> dict[str, str]:
    return {"CLAUDE_API_KEY": KEY, "ANTHROPIC_BASE_URL": api.url, "CLAUDE_MODEL": MODEL}


def spawn(service: Service, remote: Path, name: str, *steps: dict[str, Any], **over: object) -> str:
    """Spawn an agent whose model does these steps."""
    body = service.request_body(remote, "", name, **over)
    del body["options"]["command"], body["options"]["runtime"]
    body["context"]["instructions"] = script(*steps, agent=name)
    status, answer = service.call("POST", "/agents/spawn", body)
    assert status == 201, answer
    return str(answer["agentId"])


def failed_soon(service: Service, agent: str) -> dict[str, Any]:
    """Wait for the end of an agent, and see that it came soon after its program began."""
    service.wait(agent, until=("running", "failed"))
    began = time.monotonic()
    end = service.wait(agent)
    assert time.monotonic() - began < SOON_S
    assert end["status"] == "failed", end
    assert "\n" not in end["error"]
    assert end["error"] in service.log.read_text()
    return end


def test_a_refused_login_and_a_bad_model_are_one_line_each(service: Service, api: ScriptedApi) -> None:
    remote = make_remote(service.remotes, fresh_mark("repo"))
    bad = failed_soon(
        service, spawn(service, remote, fresh_mark("model"), options={"model": "claude-none-1"})
    )
    assert bad["reason"] == "provider_unavailable", bad
    assert "model" in bad["error"]
    api.change(keys=["another"])
    try:
        login = failed_soon(service, spawn(service, remote, fresh_mark("login")))
    finally:
        api.change(keys=[KEY])
    assert login["reason"] == "provider_unavailable", login
    assert "401" in login["error"]


def test_a_missing_program_and_an_old_one_are_refused_with_the_fix(
    reachable_path: Path, api: ScriptedApi
) -> None:
    old = reachable_path / "claude"
    settings = {**settings_for(api), "CLAUDE_CODE_PATH": str(old)}
    with Service(reachable_path, **settings) as own:
        remote = make_remote(own.remotes)
        options = {"runtime": "claude-code"}
        body = own.request_body(remote, "", "T-1", options=options)
        del body["options"]["command"]
        status, answer = own.call("POST", "/agents/spawn", body)
        assert (status, answer["errors"][0]["field"]) == (422, "options.runtime"), answer
        assert f"CLAUDE_CODE_PATH={old} is no file" in str(answer)
        assert f"CLAUDE_CODE_PATH={old} is no file" in own.log.read_text()
        old.write_text("#!/bin/sh\necho '1.0.3 (Claude Code)'\n")
        old.chmod(0o755)
        status, answer = own.call("POST", "/agents/spawn", body)
        assert status == 201, answer
        end = failed_soon(own, answer["agentId"])
        assert end["error"].startswith("Claude Code 1.0.3"), end
        assert "pip install" in end["error"]
        assert own.call("POST", "/agents/spawn", {**body, "taskId": "T-2"})[0] == 422
        assert branches(remote).keys() == {"main"}


def test_it_reaches_its_door_where_the_loopback_is_listed_for_egress(
    reachable_path: Path, api: ScriptedApi
) -> None:
    with Service(reachable_path, **settings_for(api), SANDBOX_EGRESS=f"127.0.0.1:{api.port}") as own:
        remote, name = make_remote(own.remotes), fresh_mark("egress")
        agent = spawn(own, remote, name, {"do": {"run": "echo $NO_PROXY > file"}}, {"say": "done"})
        end = own.wait(agent)
        assert end["status"] == "completed", end
        assert "127.0.0.1:" in git("show", f"agent/{name}:file", cwd=remote)
        assert not [event for event in own.task_events(name) if event["type"].startswith("egress.")]
