"""What every runtime that asks a model promises, through a real supervisor, a sandbox, and a scripted API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kit.messages_api import Request, ScriptedApi, script, scripted_api
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import git, make_remote
from tests.kit.service import Service
from tests.kit.until import pause, until

pytestmark = pytest.mark.timeout(120)

#: Must never be seen inside a sandbox.
CANARY = fresh_mark("sk-canary")
MODEL = "claude-sonnet-5-5"


@dataclass(frozen=True)
class Kind:
    """One runtime."""

    name: str


KINDS = (Kind("claude"),)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Return each runtime in turn."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    """Return an API that the tests of this module share; each has scripts of its own name."""
    with scripted_api(keep_bodies=True, keys=[CANARY]) as running:
        yield running


@pytest.fixture
def service(reachable_path: Path, api: ScriptedApi) -> Iterator[Service]:
    """Return a running supervisor with a key."""
    own = Service(reachable_path, **settings_for(api))
    own.start()
    yield own
    own.stop()
    own.http.close()


def settings_for(api: ScriptedApi) -> dict[str, str]:
    return {"CLAUDE_API_KEY": CANARY, "ANTHROPIC_BASE_URL": api.url, "CLAUDE_MODEL": MODEL}


def spawn(
    service: Service, kind: Kind, remote: Path, name: str, *steps: dict[str, Any], **over: object
) -> str:
    """Spawn an agent whose model does these steps, under a name that the API's log knows."""
    body = service.request_body(remote, "unused", name, **over)
    del body["options"]["command"]
    body["options"]["runtime"] = kind.name
    body["context"]["instructions"] = script(*steps, agent=name)
    status, answer = service.call("POST", "/agents/spawn", body)
    assert status == 201, answer
    return str(answer["agentId"])


def name_of(kind: Kind, what: str) -> str:
    return fresh_mark(f"{kind.name}-{what}")


def counted(requests: list[Request], steps: tuple[dict[str, Any], ...]) -> dict[str, int]:
    """Return what the API reported for these requests."""
    told = [steps[request.step].get("usage", {}) for request in requests if request.how == "served"]
    return {name: sum(usage.get(name, 0) for usage in told) for name in ("input_tokens", "output_tokens")}


USAGE = {"usage": {"input_tokens": 1000, "output_tokens": 100}}


def test_it_edits_the_repository_and_the_change_lands(service: Service, kind: Kind, api: ScriptedApi) -> None:
    remote = make_remote(service.remotes, files={"hello.py": "print('hello')\n"})
    name = name_of(kind, "edits")
    steps = (
        {"say": "I look.", "do": {"read": "hello.py"}, **USAGE},
        {"do": {"edit": "hello.py", "old": "hello", "new": "goodbye"}, **USAGE},
        {"do": [{"run": "python3 hello.py > said.txt"}, {"write": "n/new.txt", "text": "new\n"}], **USAGE},
        {"say": "I made it say goodbye.", **USAGE},
    )
    agent = spawn(service, kind, remote, name, *steps)
    end = service.wait(agent)
    assert (end["status"], end["reason"]) == ("completed", "done"), end
    branch = f"agent/{name}"
    assert git("show", f"{branch}:hello.py", cwd=remote) == "print('goodbye')\n"
    assert git("show", f"{branch}:said.txt", cwd=remote) == "goodbye\n"
    assert git("show", f"{branch}:n/new.txt", cwd=remote) == "new\n"
    requests = api.messages(name)
    reported = counted(requests, steps)
    usage = end["usage"]
    assert {"input_tokens": usage["inputTokens"], "output_tokens": usage["outputTokens"]} == reported
    assert (usage["turns"], usage["toolCalls"]) == (4, 4)
    assert {request.key for request in requests} == {CANARY}
    assert {request.model for request in requests} == {MODEL}


def test_there_is_no_key_and_no_network_inside(service: Service, kind: Kind, api: ScriptedApi) -> None:
    remote = make_remote(service.remotes)
    name = name_of(kind, "key")
    half = CANARY[: len(CANARY) // 2]  # the look itself must not be what is found
    look = (
        f"{{ cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; env; grep -rs {half} / --include='*' "
        "--exclude-dir=sys --exclude-dir=usr --exclude-dir=proc; } 2>/dev/null | tr '\\0' '\\n' "
        "> seen.txt; cat /proc/net/tcp /proc/net/dev | grep -v lo: > net.txt; "
        f"(exec 3<>/dev/tcp/127.0.0.1/{api.port}) 2> connect.txt; true"
    )
    end = service.wait(spawn(service, kind, remote, name, {"do": {"run": look}}, {"say": "done"}))
    assert end["status"] == "completed", end
    branch = f"agent/{name}"
    seen = git("show", f"{branch}:seen.txt", cwd=remote)
    assert "PATH=" in seen
    assert CANARY not in seen
    assert "refused" in git("show", f"{branch}:connect.txt", cwd=remote)
    for path in service.home.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in service.log.read_text()


def test_a_rejection_is_the_next_prompt_of_the_same_conversation(
    service: Service, kind: Kind, api: ScriptedApi
) -> None:
    gate = '[gates.tests]\ncommand = ["grep", "good", "f"]\n'
    remote = make_remote(service.remotes, files={"f": "bad\n", "orchestrator.toml": gate})
    name = name_of(kind, "rejected")
    steps = (
        {"do": {"run": "echo worse > f"}},
        {"say": "done"},
        {"do": {"run": "echo good > f"}},
        {"say": "mended"},
    )
    agent = spawn(service, kind, remote, name, *steps, gateProfile="minimal", gates=None)
    end = service.wait(agent)
    assert (end["status"], end["usage"]["turns"]) == ("completed", 4), end
    assert git("show", f"agent/{name}:f", cwd=remote) == "good\n"
    assert "was rejected (round 1)" in json.dumps(api.messages(name)[2].body["messages"])


def test_a_kill_in_the_middle_of_a_stream_closes_it_at_once(
    service: Service, kind: Kind, api: ScriptedApi
) -> None:
    remote = make_remote(service.remotes)
    name = name_of(kind, "stream")
    agent = spawn(service, kind, remote, name, {"say_chars": 1_000_000, "pause_s": 0.02})
    until(lambda: [r for r in api.messages(name) if r.status == 200], "the answer comes")
    killed = service.call("POST", f"/agents/{agent}/kill")[1]
    assert (killed["status"], killed["remaining"]) == ("killed", 0), killed
    request = until(
        lambda: next((r for r in api.messages(name) if r.seconds is not None), None), "it is closed"
    )
    assert request is not None
    assert request.how == "cut by the client"
    assert not marked(agent)


def test_a_kill_in_the_middle_of_a_call_leaves_no_process(
    service: Service, kind: Kind, api: ScriptedApi
) -> None:
    remote = make_remote(service.remotes)
    name, mark = name_of(kind, "call"), fresh_mark("held")
    run = f"(setsid sh -c 'trap \"\" TERM; : {mark}; sleep 1000; :' &) ; sh -c ': {mark}; sleep 1000; :'"
    agent = spawn(service, kind, remote, name, {"do": {"run": run}})
    until(lambda: len(marked(mark)) >= 2, "it runs")
    killed = service.call("POST", f"/agents/{agent}/kill")[1]
    assert killed["remaining"] == 0, killed
    assert killed["killedProcesses"] >= 3
    assert not marked(mark)
    assert not marked(agent)
    assert len(api.messages(name)) == 1


@pytest.mark.parametrize("after", [0, 1, 2])
def test_the_same_agent_goes_on_after_a_crash_between_two_turns(
    service: Service, kind: Kind, api: ScriptedApi, after: int
) -> None:
    remote = make_remote(service.remotes)
    name = name_of(kind, f"crash{after}")
    calls = [{"do": {"run": f"echo {number} >> turns"}, "wait_s": 0.3} for number in range(3)]
    agent = spawn(service, kind, remote, name, *calls, {"say": "done", "wait_s": 0.6})
    until(
        lambda: len([r for r in api.messages(name) if r.how == "served"]) > after, "so many turns are taken"
    )
    until(lambda: service.status(agent)["usage"]["toolCalls"] > after, "its calls are made")
    service.kill9()
    service.start()
    end = service.wait(agent)
    assert (end["status"], end["usage"]["turns"]) == ("completed", 4), end
    served = [request.step for request in api.messages(name) if request.how == "served"]
    assert served == [0, 1, 2, 3]
    assert git("show", f"agent/{name}:turns", cwd=remote) == "0\n1\n2\n"


def test_a_call_that_was_cut_by_a_crash_is_told_as_unknown(
    service: Service, kind: Kind, api: ScriptedApi
) -> None:
    remote = make_remote(service.remotes)
    name, mark = name_of(kind, "cut"), fresh_mark("cut")
    run = f"echo once >> runs; sh -c ': {mark}; sleep 1000; :'"
    agent = spawn(
        service, kind, remote, name, {"do": {"run": run}}, {"do": {"run": "wc -l runs"}}, {"say": "ok"}
    )
    until(lambda: marked(mark), "it runs")
    service.kill9()
    until(lambda: not marked(mark), "nothing of it is left")
    service.start()
    end = service.wait(agent)
    assert (end["status"], end["usage"]["turns"], end["usage"]["toolCalls"]) == ("completed", 3, 2), end
    assert git("show", f"agent/{name}:runs", cwd=remote) == "once\n"
    assert [request.step for request in api.messages(name)] == [0, 1, 2]
    assert "outcome of this call is unknown" in json.dumps(api.messages(name)[1].body)


def test_a_call_beyond_the_memory_ends_alone_or_with_its_agent(service: Service, kind: Kind) -> None:
    remote = make_remote(service.remotes)
    run = "python3 -c 'x = bytearray(400 * 2**20); import time; time.sleep(1000)'"
    steps = ({"do": {"run": run}}, {"say": "it was killed"})
    agent = spawn(
        service, kind, remote, name_of(kind, "oom"), *steps, options={"resources": {"memoryMb": 128}}
    )
    end = service.wait(agent)
    assert end["reason"] in {"oom", "no_changes"}, end


def test_a_freeze_stops_a_call_and_its_deadline(service: Service, kind: Kind, api: ScriptedApi) -> None:
    remote = make_remote(service.remotes)
    name, mark = name_of(kind, "frozen"), fresh_mark("frozen")
    call = {"tool": "bash", "input": {"command": f"sh -c ': {mark}; sleep 1; :'; echo on > f", "timeout": 3}}
    agent = spawn(service, kind, remote, name, {"do": call}, {"say": "done"})
    until(lambda: marked(mark), "it runs")
    assert service.call("POST", "/freeze")[0] == 200
    pause(4)
    assert len(api.messages(name)) == 1
    assert service.call("POST", "/thaw")[0] == 200
    end = service.wait(agent)
    assert end["status"] == "completed", end
    assert git("show", f"agent/{name}:f", cwd=remote) == "on\n"


def test_a_task_without_runtime_and_command_is_done_by_a_model(service: Service, api: ScriptedApi) -> None:
    remote = make_remote(service.remotes)
    name = fresh_mark("default")
    body = service.request_body(remote, "unused", name)
    body["options"] = {"maxRetries": 0}
    body["context"]["instructions"] = script({"do": {"run": "echo x > x"}}, {"say": "done"}, agent=name)
    status, answer = service.call("POST", "/agents/spawn", body)
    assert status == 201, answer
    end = service.wait(answer["agentId"])
    assert (end["status"], end["runtime"]) == ("completed", "claude-code"), end
    assert len(api.messages(name)) == 2
