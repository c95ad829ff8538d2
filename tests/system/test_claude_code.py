"""The real Claude Code, through a real supervisor: what it lands, costs, holds and leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.claude_code import claude_binary
from tests.kit.messages_api import ScriptedApi, script, scripted_api
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import branches, git, make_remote
from tests.kit.service import Service
from tests.kit.until import until
from tests.system.conftest import shared_root

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

#: Must never be seen inside a sandbox.
CANARY = fresh_mark("sk-canary")
MODEL = "claude-sonnet-5-5"
SOON_S = 5.0
USAGE = {"usage": {"input_tokens": 1000, "output_tokens": 100}}


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    """Return an API that takes our key alone; each test has scripts of its own name."""
    claude_binary()
    with scripted_api(keep_bodies=True, keys=[CANARY], models=[MODEL]) as running:
        yield running


@pytest.fixture(scope="module")
def service(api: ScriptedApi) -> Iterator[Service]:
    """Return a running supervisor with a key that most tests of this module share."""
    with shared_root() as root, Service(root, **settings_for(api)) as own:
        yield own


def settings_for(api: ScriptedApi) -> dict[str, str]:
    return {"CLAUDE_API_KEY": CANARY, "ANTHROPIC_BASE_URL": api.url, "CLAUDE_MODEL": MODEL}


def spawn(service: Service, remote: Path, name: str, *steps: Any, **over: object) -> str:  # noqa: ANN401 - JSON
    """Spawn an agent whose model does these steps, under a name that the API's log knows."""
    more = over.pop("more", {})
    body = service.request_body(remote, "", name, **over)
    del body["options"]["command"], body["options"]["runtime"]
    body["context"]["instructions"] = script(*steps, agent=name, **more)  # type: ignore[arg-type]
    status, answer = service.call("POST", "/agents/spawn", body)
    assert status == 201, answer
    return str(answer["agentId"])


def test_it_edits_the_repository_and_holds_no_key(service: Service, api: ScriptedApi) -> None:
    gate = '[gates.tests]\ncommand = ["grep", "goodbye", "hello.py"]\n'
    files = {"hello.py": "print('hello')\n", "orchestrator.toml": gate}
    remote = make_remote(service.remotes, fresh_mark("repo"), files=files)
    half = CANARY[: len(CANARY) // 2]  # the look itself must not be what is found
    look = (
        "{ cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; env; "
        f"/usr/bin/grep -rs -D skip {half} / --exclude-dir=sys --exclude-dir=usr --exclude-dir=proc; "
        "} 2>/dev/null | tr '\\0' '\\n' > seen.txt; "
        f"(exec 3<>/dev/tcp/127.0.0.1/{api.port}) 2> connect.txt; cut -d: -f1 /proc/net/dev > net.txt; true"
    )
    again = {
        "if": "was rejected (round 1)",
        "steps": [
            {"do": {"edit": "hello.py", "old": "hello", "new": "goodbye"}, **USAGE},
            {"say": "mended", **USAGE},
        ],
    }
    steps = (
        {"say": "I look.", "do": {"run": look}, **USAGE},
        {"do": {"read": "hello.py"}, **USAGE},
        {"say": "so", **USAGE},
    )
    name = fresh_mark("edits")
    agent = spawn(
        service, remote, name, *steps, more={"branches": [again]}, gateProfile="minimal", gates=None
    )
    end = service.wait(agent)
    assert (end["status"], end["runtime"]) == ("completed", "claude-code"), end
    show = {
        path: git("show", f"agent/{name}:{path}", cwd=remote)
        for path in ("hello.py", "seen.txt", "connect.txt", "net.txt")
    }
    assert show["hello.py"] == "print('goodbye')\n"
    assert "PATH=" in show["seen.txt"]
    assert CANARY not in show["seen.txt"]
    assert "refused" in show["connect.txt"]
    assert show["net.txt"].split()[-1] == "lo"
    usage = end["usage"]
    assert (usage["inputTokens"], usage["outputTokens"], usage["turns"], usage["toolCalls"]) == (
        5000,
        500,
        5,
        3,
    )
    assert {(request.key, request.model, request.how) for request in api.messages(name)} == {
        (CANARY, MODEL, "served")
    }
    assert not marked(agent)
    for path in service.home.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in service.log.read_text()


def test_a_kill_in_the_middle_of_a_stream_closes_it(service: Service, api: ScriptedApi) -> None:
    remote = make_remote(service.remotes, fresh_mark("repo"))
    name = fresh_mark("stream")
    agent = spawn(service, remote, name, {"say": "x" * 300, "fault": {"kind": "hang", "after": 4}})
    until(lambda: api.messages(name), "the answer is being given")
    killed = service.call("POST", f"/agents/{agent}/kill")[1]
    assert (killed["status"], killed["remaining"]) == ("killed", 0), killed
    assert not marked(agent)
    until(lambda: api.messages(name)[0].seconds is not None, "it is closed")
    assert [request.how for request in api.messages(name)] == ["cut by the client"]


def test_a_kill_in_the_middle_of_a_call_leaves_no_process(service: Service, api: ScriptedApi) -> None:
    remote = make_remote(service.remotes, fresh_mark("repo"))
    name, mark = fresh_mark("call"), fresh_mark("held")
    run = f"(setsid sh -c 'trap \"\" TERM; : {mark}; sleep 1000; :' &) ; sh -c ': {mark}; sleep 1000; :'"
    agent = spawn(service, remote, name, {"do": {"run": run}})
    until(lambda: len(marked(mark)) >= 2, "the call runs")
    killed = service.call("POST", f"/agents/{agent}/kill")[1]
    assert (killed["status"], killed["remaining"]) == ("killed", 0), killed
    assert not marked(mark)
    assert not marked(agent)
    assert len(api.messages(name)) == 1


@pytest.fixture
def mortal_service(reachable_path: Path, api: ScriptedApi) -> Iterator[Service]:
    """Return a running supervisor of this test alone."""
    with Service(reachable_path, **settings_for(api)) as own:
        yield own


def test_the_same_agent_goes_on_after_a_crash(mortal_service: Service, api: ScriptedApi) -> None:
    service = mortal_service
    remote = make_remote(service.remotes, fresh_mark("repo"))
    name = fresh_mark("crash")
    went_on = {"if": "You were interrupted", "steps": [{"do": {"run": "echo 2 >> turns"}}, {"say": "done"}]}
    steps = ({"do": {"run": "echo 0 >> turns"}}, {"do": {"run": "echo 1 >> turns"}}, {"wait_s": 60})
    agent = spawn(service, remote, name, *steps, more={"branches": [went_on]})
    until(lambda: len(api.messages(name)) == 3, "two turns are taken, and the third is asked for")
    until(lambda: service.status(agent)["usage"]["toolCalls"] == 2, "its calls are counted")
    service.kill9()
    until(lambda: not marked(agent), "nothing of it is left")
    service.start()
    end = service.wait(agent)
    assert (end["status"], end["usage"]["turns"]) == ("completed", 4), end
    assert git("show", f"agent/{name}:turns", cwd=remote) == "0\n1\n2\n"
    served = [request for request in api.messages(name) if request.how == "served"]
    assert [request.step for request in served] == [0, 1, 0, 1]
    assert "echo 1 >> turns" in str(served[2].body["messages"])


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
        api.change(keys=[CANARY])
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
