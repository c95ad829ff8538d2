"""A real agent of the Agent Client Protocol, through a real supervisor, a sandbox and the door to an API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.acp_agent import acp_agent
from tests.kit.messages_api import ScriptedApi, script, scripted_api
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import git, make_remote
from tests.kit.service import Service
from tests.kit.until import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

#: Must never be seen inside a sandbox.
CANARY = fresh_mark("sk-canary")
MODEL = "claude-sonnet-5-5"


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    """Return an API that the tests of this module share."""
    with scripted_api(keys=[CANARY]) as running:
        yield running


@pytest.fixture
def service(reachable_path: Path, api: ScriptedApi) -> Iterator[Service]:
    """Return a running supervisor with a key, whose sandboxes show the agent."""
    own = Service(
        reachable_path,
        CLAUDE_API_KEY=CANARY,
        ANTHROPIC_BASE_URL=api.url,
        CLAUDE_MODEL=MODEL,
        SANDBOX_READ_ONLY=acp_agent()[2],
    )
    own.start()
    yield own
    own.stop()
    own.http.close()


def spawn(service: Service, remote: Path, name: str, *steps: dict[str, Any]) -> str:
    """Spawn an agent whose model does these steps, under a name that the API's log knows."""
    command, env, _ = acp_agent()
    body = service.request_body(remote, "unused", name)
    body["options"] |= {
        "runtime": "acp",
        "command": list(command),
        "env": env,
        "resources": {"memoryMb": 4096},
    }
    body["context"]["instructions"] = script(*steps, agent=name)
    status, answer = service.call("POST", "/agents/spawn", body)
    assert status == 201, answer
    return str(answer["agentId"])


def test_its_change_lands_and_no_key_is_inside(service: Service, api: ScriptedApi) -> None:
    remote = make_remote(service.remotes, files={"hello.py": "print('hello')\n"})
    name = fresh_mark("acp-lands")
    half = CANARY[: len(CANARY) // 2]  # the look itself must not be what is found
    look = (
        "{ cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; env; "
        f"grep -rs {half} /workspace /orchestrator /home /tmp /etc; }} 2>/dev/null "
        "| tr '\\0' '\\n' > seen.txt; "
        f"(exec 3<>/dev/tcp/127.0.0.1/{api.port}) 2> connect.txt; true"
    )
    end = service.wait(
        spawn(
            service,
            remote,
            name,
            {"do": {"read": "hello.py"}},
            {"do": {"edit": "hello.py", "old": "hello", "new": "goodbye"}},
            {"do": {"run": look}},
            {"say": "I made it say goodbye."},
        )
    )
    assert (end["status"], end["reason"]) == ("completed", "done"), end
    branch = f"agent/{name}"
    assert git("show", f"{branch}:hello.py", cwd=remote) == "print('goodbye')\n"
    seen = git("show", f"{branch}:seen.txt", cwd=remote)
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:" in seen
    assert CANARY not in seen
    assert "refused" in git("show", f"{branch}:connect.txt", cwd=remote)
    requests = api.messages(name)
    assert {request.key for request in requests} == {CANARY}
    assert {request.model for request in requests} == {MODEL}
    usage = end["usage"]
    assert usage["turns"] >= 4
    assert usage["toolCalls"] == 3
    assert usage["inputTokens"] + usage["outputTokens"] > 0


def test_kill_in_the_middle_of_a_prompt_leaves_nothing(service: Service, api: ScriptedApi) -> None:
    name, mark = fresh_mark("acp-kill"), fresh_mark("held")
    run = f"(setsid sh -c 'trap \"\" TERM; : {mark}; sleep 1000; :' &) ; sh -c ': {mark}; sleep 1000; :'"
    agent = spawn(service, make_remote(service.remotes), name, {"do": {"run": run}})
    until(lambda: len(marked(mark)) >= 2, "it runs", 60)
    killed = service.call("POST", f"/agents/{agent}/kill")[1]
    assert (killed["status"], killed["remaining"]) == ("killed", 0), killed
    assert not marked(mark)
    assert not marked(agent)


def test_same_agent_finishes_after_a_crash(service: Service, api: ScriptedApi) -> None:
    remote = make_remote(service.remotes)
    name, mark = fresh_mark("acp-crash"), fresh_mark("cut")
    agent = spawn(
        service,
        remote,
        name,
        {"do": {"run": "echo one > one.txt"}},
        {"do": {"run": f"test -e cut || {{ touch cut; sh -c ': {mark}; sleep 1000; :'; }}"}},
        {"do": {"run": "echo two > two.txt"}},
        {"say": "done"},
    )
    until(lambda: marked(mark), "it runs", 60)
    service.kill9()
    until(lambda: not marked(mark), "nothing of it is left")
    service.start()
    end = service.wait(agent)
    assert (end["status"], end["agentId"]) == ("completed", agent), end
    assert git("show", f"agent/{name}:one.txt", cwd=remote) == "one\n"
    log = service.call("GET", f"/agents/{agent}/logs")[1]
    assert "the earlier session cannot be gone on with" not in str(log)
