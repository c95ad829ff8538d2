"""Agents that think, in containers: each runtime through the real supervisor over rootless podman."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from sandbox.base import User
from tests.kit.acp_agent import PROGRAM, acp_agent
from tests.kit.claude_code import claude_binary
from tests.kit.messages_api import ScriptedApi, script, scripted_api
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import git, make_remote
from tests.kit.service import Service
from tests.kit.until import pause, until
from tests.system.test_podman import Containers, contained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

#: Must never be seen inside a container.
CANARY = fresh_mark("sk-canary")
MODEL = "claude-sonnet-5-5"
#: What a model looks at: who it is, what there is of the host, and whether a key or a network is there.
#: Half of it: the look itself must not be what is found; and all that it sees would not be let out.
HALF = CANARY[: len(CANARY) // 2]
LOOK = (
    "{ cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; env; } 2>/dev/null | tr '\\0' '\\n' "
    f"| grep -aoE 'HOME=/|ANTHROPIC_BASE_URL=[^ ]*|{HALF}.{{0,40}}' > seen; "
    "{ id -u; cat /proc/1/comm; ls /sys | wc -l; sed -n 's/^ *\\([^:]*\\):.*/\\1/p' /proc/net/dev; } > where"
)
#: That is: the agents' uid, an init of podman's own, an empty /sys, and the loopback alone.
CONTAINED = ["1000", "podman-init", "0", "lo"]


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    """Return an API that takes our key alone."""
    with scripted_api(keep_bodies=True, keys=[CANARY], models=[MODEL]) as running:
        yield running


@pytest.fixture(scope="module")
def service(containers: Containers, ordinary_user: User, api: ScriptedApi) -> Iterator[Service]:
    """Return a running supervisor over podman, with a key, that the tests share."""
    root = Path(tempfile.mkdtemp(prefix="podman-agents-", dir=os.environ["TMPDIR"]))
    with contained(root, containers, ordinary_user) as running:
        running.env |= settings_for(api) | {"SANDBOX_READ_ONLY": shown()}
        running.start()
        yield running
    shutil.rmtree(root)


def settings_for(api: ScriptedApi) -> dict[str, str]:
    return {"CLAUDE_API_KEY": CANARY, "ANTHROPIC_BASE_URL": api.url, "CLAUDE_MODEL": MODEL}


def shown() -> str:
    """Return what an ACP agent needs beside what the image has: its files, node, and node's libraries."""
    node = shutil.which("node")
    if not PROGRAM.exists() or node is None:
        return ""
    said = subprocess.run(["ldd", node], capture_output=True, text=True, check=True).stdout
    libraries = [path for path in re.findall(r"(/\S+) \(0x", said) if "libstdc++" in path]
    return ":".join([acp_agent()[2], node, *libraries])


def spawn(service: Service, runtime: str, remote: Path, *steps: object, **options: object) -> tuple[str, str]:
    """Spawn an agent whose model does these steps; return its id, and the name that the API's log has."""
    name, branches = fresh_mark(runtime), options.pop("branches", None)
    body = service.request_body(remote, "", name)
    body["options"] = {"runtime": runtime, "maxRetries": 0, **options}
    more = {"branches": branches} if branches else {}
    body["context"]["instructions"] = script(*steps, agent=name, **more) if steps else ""  # type: ignore[arg-type]
    status, answer = service.call("POST", "/agents/spawn", body)
    assert status == 201, answer
    return str(answer["agentId"]), name


@pytest.mark.parametrize("runtime", ["claude", "claude-code"])
def test_a_model_works_in_a_container_without_key_or_network(
    service: Service, api: ScriptedApi, runtime: str
) -> None:
    if runtime == "claude-code":
        claude_binary()
    remote = make_remote(service.remotes, fresh_mark("repo"))
    agent, name = spawn(service, runtime, remote, {"do": {"run": LOOK}}, {"say": "I looked."})
    end = service.wait(agent)
    assert (end["status"], end["usage"]["turns"], end["usage"]["toolCalls"]) == ("completed", 2, 1), end
    assert git("show", f"agent/{name}:where", cwd=remote).split() == CONTAINED
    seen = git("show", f"agent/{name}:seen", cwd=remote)
    assert "HOME=/" in seen
    assert CANARY not in seen
    assert {(request.key, request.how) for request in api.messages(name)} == {(CANARY, "served")}
    assert not marked(agent)


def held(mark: str) -> str:
    """Return a command that runs until it is killed, with a process that has left its session."""
    return f"(setsid sh -c 'trap \"\" TERM; : {mark}; sleep 1000; :' &) ; sh -c ': {mark}; sleep 1000; :'"


def test_claude_code_is_frozen_thawed_and_killed_in_the_middle_of_a_call(
    service: Service, api: ScriptedApi
) -> None:
    claude_binary()
    mark = fresh_mark("held")
    remote = make_remote(service.remotes, fresh_mark("repo"))
    count = f"sh -c ': {mark}; while :; do echo x >> ticks; sleep 0.05; done'"
    agent, name = spawn(service, "claude-code", remote, {"do": {"run": f"{count} & {held(mark)}"}})
    until(lambda: len(marked(mark)) >= 3, "the call runs")
    [ticks] = until(lambda: [*service.home.glob(f"workspaces/*{agent}*/**/ticks")], "it counts") or []
    status, frozen = service.call("POST", "/freeze")
    assert (status, frozen["frozen"]) == (200, True), frozen
    stood = ticks.stat().st_size
    pause(0.5)
    assert ticks.stat().st_size == stood
    assert service.call("POST", "/thaw")[0] == 200
    until(lambda: ticks.stat().st_size > stood, "it goes on")
    killed = service.call("POST", f"/agents/{agent}/kill")[1]
    assert (killed["status"], killed["remaining"]) == ("killed", 0), killed
    assert killed["tier"].startswith("container")
    assert not marked(mark)
    assert len(api.messages(name)) == 1
    until(lambda: service.task_events(name)[-1]["type"] == "agent.cleanup", "what it made is salvaged")
    assert service.task_events(name)[-1]["data"]["salvage"] == f"refs/salvage/{agent}"
    assert not marked(agent)


@pytest.fixture
def mortal_service(
    containers: Containers, ordinary_user: User, api: ScriptedApi, reachable_path: Path
) -> Iterator[Service]:
    """Return a running supervisor over podman of this test alone, whose image has Claude Code."""
    with contained(reachable_path, containers, ordinary_user) as own:
        folder = str(claude_binary().parent)
        own.env |= settings_for(api) | {
            "SANDBOX_READ_ONLY": folder,
            "SANDBOX_PATH": f"/usr/bin:/bin:{folder}",
        }
        own.start()
        yield own


def test_claude_code_goes_on_in_its_session_after_a_crash(mortal_service: Service, api: ScriptedApi) -> None:
    service, mark = mortal_service, fresh_mark("held")
    remote = make_remote(service.remotes)
    went_on = {"if": "You were interrupted", "steps": [{"do": {"run": "echo 2 >> turns"}}, {"say": "done"}]}
    steps = ({"do": {"run": "echo 0 >> turns"}}, {"do": {"run": f"echo 1 >> turns; {held(mark)}"}})
    agent, name = spawn(service, "claude-code", remote, *steps, branches=[went_on])
    until(lambda: len(marked(mark)) >= 2, "the second call runs")
    service.kill9()
    until(lambda: not marked(mark) and not marked(agent), "nothing of it is left")
    service.start()
    end = service.wait(agent)
    assert (end["status"], end["usage"]["turns"]) == ("completed", 4), end
    assert git("show", f"agent/{name}:turns", cwd=remote) == "0\n1\n2\n"
    asked = api.messages(name)
    assert [request.step for request in asked] == [0, 1, 0, 1]
    assert "echo 1 >> turns" in str(asked[2].body["messages"]), "it knows what it did before"
    assert "claude of the image)" in service.http.get(f"/agents/{agent}/logs").text


def test_an_acp_agent_reaches_its_model_from_a_container(service: Service, api: ScriptedApi) -> None:
    remote = make_remote(service.remotes, fresh_mark("repo"), files={"hello.py": "print('hello')\n"})
    command, env, _ = acp_agent()
    steps = ({"do": {"read": "hello.py"}}, {"do": {"edit": "hello.py", "old": "hello", "new": "goodbye"}})
    options = {"command": list(command), "env": env, "resources": {"memoryMb": 4096}}
    agent, name = spawn(service, "acp", remote, *steps, {"do": {"run": LOOK}}, {"say": "done"}, **options)
    end = service.wait(agent)
    assert (end["status"], end["usage"]["toolCalls"]) == ("completed", 3), end
    assert git("show", f"agent/{name}:hello.py", cwd=remote) == "print('goodbye')\n"
    assert git("show", f"agent/{name}:where", cwd=remote).split() == CONTAINED
    seen = git("show", f"agent/{name}:seen", cwd=remote)
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:" in seen
    assert CANARY not in seen
    assert {request.key for request in api.messages(name)} == {CANARY}


def test_people_sit_down_at_a_terminal_in_a_container(service: Service) -> None:
    remote = make_remote(service.remotes, fresh_mark("repo"))
    options = {"command": ["bash", "--norc", "-i"], "terminal": {"idleSeconds": 3600}, "env": {"PS1": "> "}}
    agent, name = spawn(service, "terminal", remote, **options)
    service.wait(agent, until=("running",))
    seat = pexpect.spawn(
        sys.executable, ["-m", "orchestrator", "attach", agent], env={**service.env, "TERM": "xterm"},
        timeout=40, dimensions=(30, 90), encoding="utf-8",
    )  # fmt: skip
    try:
        seat.expect(">")
        seat.send("python3 -c 'import os; print(*os.get_terminal_size(0))' > size; cat size /proc/1/comm\r")
        seat.expect("90 30\r\npodman-init")
        seat.send("exit\r")
        seat.expect("the program ended")
        seat.expect(pexpect.EOF)
    finally:
        seat.close(force=True)
    end = service.wait(agent)
    assert end["status"] == "completed", end
    assert git("show", f"agent/{name}:size", cwd=remote) == "90 30\n"
