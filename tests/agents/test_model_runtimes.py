"""What every runtime that asks a model promises, through a real supervisor, a sandbox, and a scripted API.

Claude Code and the ACP agent are the real ones. An ACP agent may ask its model for more than its turns (for a
title, say): such requests offer no tools.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.kit.acp_agent import acp_agent
from tests.kit.claude_code import claude_binary
from tests.kit.messages_api import Request, ScriptedApi, script, scripted_api
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import git, make_remote
from tests.kit.service import Service
from tests.kit.until import pause, until
from tests.system.conftest import shared_root

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

#: Must never be seen inside a sandbox.
CANARY = fresh_mark("sk-canary")
MODEL = "claude-sonnet-5-5"
USAGE = {"usage": {"input_tokens": 1000, "output_tokens": 100}}
#: How long an agent may take: a node program over another, on a host with much else to do.
END_S = 150.0
#: What an agent is told that goes on, but for `claude`, whose conversation is kept here.
WENT_ON = "You were interrupted"


@dataclass(frozen=True)
class Kind:
    """One runtime: what its tasks say, and what holds for it alone."""

    name: str
    options: Callable[[], Mapping[str, Any]] = dict
    #: Between which turns it is tried whether a crash is survived.
    crashes: Sequence[int] = (1,)
    #: What its model is told of a call that a crash cut.
    cut_call: str = WENT_ON
    #: What its log says when it has read what it will tell its model later, where that takes a moment.
    noticed: str = ""
    #: What it needs at least, in MB.
    memory_mb: int = 128
    #: A call of its shell that has so many seconds, where its deadlines stand still in a freeze.
    timed: Callable[[str, int], Mapping[str, Any]] = field(default=lambda command, _: {"run": command})


def _claude_code() -> Mapping[str, Any]:
    claude_binary()
    return {}


def _acp() -> Mapping[str, Any]:
    command, env, _ = acp_agent()
    return {"command": list(command), "env": env, "resources": {"memoryMb": 4096}}


KINDS = (
    Kind(
        "claude",
        crashes=(0, 1, 2),
        cut_call="outcome of this call is unknown",
        timed=lambda command, seconds: {"tool": "bash", "input": {"command": command, "timeout": seconds}},
    ),
    Kind("claude-code", _claude_code, noticed="command_lifecycle", memory_mb=1024),
    Kind("acp", _acp, memory_mb=2048),
)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Return each runtime in turn."""
    request.param.options()  # or skip
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    """Return an API that the tests of this module share; each has scripts of its own name."""
    with scripted_api(keep_bodies=True, keys=[CANARY]) as running:
        yield running


@pytest.fixture(scope="module")
def service(api: ScriptedApi) -> Iterator[Service]:
    """Return a running supervisor with a key that the tests of this module share."""
    with shared_root() as root, Service(root, **settings_for(api)) as own:
        yield own


@pytest.fixture
def mortal(reachable_path: Path, api: ScriptedApi) -> Iterator[Service]:
    """Return a running supervisor of one test alone."""
    with Service(reachable_path, **settings_for(api)) as own:
        yield own


def settings_for(api: ScriptedApi) -> dict[str, str]:
    settings = {"CLAUDE_API_KEY": CANARY, "ANTHROPIC_BASE_URL": api.url, "CLAUDE_MODEL": MODEL}
    with suppress(pytest.skip.Exception):
        settings["SANDBOX_READ_ONLY"] = acp_agent()[2]
    return settings


class Agent:
    """One agent whose model does these steps, under a name that the API's log knows."""

    def __init__(
        self,
        service: Service,
        api: ScriptedApi,
        kind: Kind,
        *steps: Mapping[str, Any],
        **over: Any,  # noqa: ANN401
    ) -> None:
        self.name = fresh_mark(kind.name)
        self.remote = make_remote(service.remotes, self.name, files=over.pop("files", {"README": "x\n"}))
        more = {name: over.pop(name) for name in ("branches", "loop") if name in over}
        body = service.request_body(self.remote, "", self.name, **over)
        del body["options"]["command"]
        body["options"] |= {"runtime": kind.name, **kind.options(), **over.get("options", {})}
        body["context"]["instructions"] = script(*steps, agent=self.name, **more)
        status, answer = service.call("POST", "/agents/spawn", body)
        assert status == 201, answer
        self.id = str(answer["agentId"])
        self._service, self._api = service, api

    def wait(self, status: str = "completed") -> dict[str, Any]:
        """Wait for its end, which is this one."""
        end = self._service.wait(self.id, within_s=END_S)
        assert end["status"] == status, (end, self._service.call("GET", f"/agents/{self.id}/logs"))
        return end

    def turns(self) -> list[Request]:
        """Return the requests for its turns."""
        return [request for request in self._api.messages(self.name) if request.body.get("tools")]

    def show(self, path: str) -> str:
        """Return what has landed under this name."""
        return git("show", f"agent/{self.name}:{path}", cwd=self.remote)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what the journal has of that name about its task."""
        return [event["data"] for event in self._service.task_events(self.name) if event["type"] == name]


MakeAgent = Callable[..., Agent]


@pytest.fixture
def make(service: Service, api: ScriptedApi, kind: Kind) -> MakeAgent:
    """Return a function that spawns an agent of this kind."""
    return lambda *steps, **over: Agent(service, api, kind, *steps, **over)


def told(request: Request) -> str:
    """Return all that a model was told."""
    return json.dumps(request.body["messages"])


def said(request: Request) -> str:
    """Return all that the model had said before."""
    return json.dumps([each for each in request.body["messages"] if each["role"] == "assistant"])


def hold(mark: str) -> dict[str, str]:
    """Return a call that lasts until its processes are ended."""
    return {"run": f"sh -c ': {mark}; sleep 1000; :'"}


def let_go(mark: str) -> None:
    """End what `hold` began, from outside."""
    for pid in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_it_edits_the_repository_and_holds_no_key(
    service: Service, api: ScriptedApi, make: MakeAgent
) -> None:
    half = CANARY[: len(CANARY) // 2]  # the look itself must not be what is found
    look = (
        "{ cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; env; "
        f"/usr/bin/grep -rs -D skip {half} / --exclude-dir=sys --exclude-dir=usr --exclude-dir=proc "
        "--exclude-dir=node_modules --exclude-dir=_bundled; } 2>/dev/null | tr '\\0' '\\n' "
        f"| grep -aoE 'PATH=|{half}.{{0,40}}' > seen.txt; "  # all of it would not be let out
        f"(exec 3<>/dev/tcp/127.0.0.1/{api.port}) 2> connect.txt; cut -d: -f1 /proc/net/dev > net.txt; true"
    )
    steps = (
        {"say": "I look.", "do": {"read": "hello.py"}, **USAGE},
        {"do": {"edit": "hello.py", "old": "hello", "new": "goodbye"}, **USAGE},
        {"do": [{"run": "python3 hello.py > said.txt"}, {"run": look}], **USAGE},
        {"say": "I made it say goodbye.", **USAGE},
    )
    agent = make(*steps, files={"hello.py": "print('hello')\n"})
    end = agent.wait()
    assert end["reason"] == "done"
    assert (agent.show("hello.py"), agent.show("said.txt")) == ("print('goodbye')\n", "goodbye\n")
    assert "PATH=" in agent.show("seen.txt")
    assert CANARY not in agent.show("seen.txt")
    assert "refused" in agent.show("connect.txt")
    assert agent.show("net.txt").split()[-1] == "lo"
    asked = api.messages(agent.name)
    usage = end["usage"]
    assert usage["inputTokens"] == sum(request.usage["input_tokens"] for request in asked) >= 4000
    assert usage["outputTokens"] == sum(request.usage["output_tokens"] for request in asked) >= 400
    assert (usage["turns"], usage["toolCalls"], len(agent.turns())) == (len(asked), 4, 4)
    assert {(request.key, request.model, request.how) for request in asked} == {(CANARY, MODEL, "served")}
    assert not marked(agent.id)
    for path in service.home.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in service.log.read_text()


def test_a_rejection_is_the_next_prompt_of_the_same_conversation(make: MakeAgent) -> None:
    gate = '[gates.tests]\ncommand = ["grep", "good", "f"]\n'
    again = {"if": "was rejected (round 1)", "steps": [{"do": {"run": "echo good > f"}}, {"say": "mended"}]}
    agent = make(
        {"do": {"run": "echo worse > f"}},
        {"say": "so"},
        branches=[again],
        files={"f": "bad\n", "orchestrator.toml": gate},
        gateProfile="minimal",
        gates=None,
    )
    agent.wait()
    assert agent.show("f") == "good\n"
    assert len(agent.turns()) == 4
    assert "echo worse" in said(agent.turns()[2])


def test_what_is_said_to_it_reaches_its_model_in_the_middle_of_the_prompt(
    service: Service, kind: Kind, make: MakeAgent
) -> None:
    mark = fresh_mark("held")
    minded = {"if": "from admin", "steps": [{"do": {"run": "echo minded > minded"}}, {"say": "well"}]}
    agent = make({"do": hold(mark)}, {"say": "nobody spoke", "wait_s": 5}, branches=[minded])
    until(lambda: marked(mark), "it runs")
    assert service.call("POST", f"/agents/{agent.id}/message", {"text": "mind the gap"})[0] == 202
    until(lambda: kind.noticed in str(service.call("GET", f"/agents/{agent.id}/logs")), "it was read")
    let_go(mark)
    agent.wait()
    assert agent.show("minded") == "minded\n"
    *_, last = agent.turns()
    assert "mind the gap" in told(last)
    assert "nobody spoke" not in said(last)
    assert [event["number"] for event in agent.events("agent.message") if event.get("delivered")] == [1]


def test_who_goes_round_in_circles_is_nudged_then_begun_anew_then_ended(make: MakeAgent) -> None:
    agent = make({"do": {"run": "echo the same"}}, loop=True)
    assert agent.wait("failed")["reason"] == "stalled"
    assert [(event["step"], event["concern"]) for event in agent.events("agent.attention")] == [
        ("nudge", "loop"),
        ("restart", "loop"),
        ("end", "loop"),
    ]
    assert [event["number"] for event in agent.events("agent.message") if event.get("delivered")] == [1]
    assert "You are watched by a program" in told(agent.turns()[-1])


def test_a_kill_in_the_middle_of_a_stream_closes_it_at_once(service: Service, make: MakeAgent) -> None:
    agent = make({"say_chars": 1_000_000, "pause_s": 0.02})
    until(lambda: [request for request in agent.turns() if request.status == 200], "the answer comes")
    killed = service.call("POST", f"/agents/{agent.id}/kill")[1]
    assert (killed["status"], killed["remaining"]) == ("killed", 0), killed
    until(lambda: agent.turns()[0].seconds is not None, "it is closed")
    assert [request.how for request in agent.turns()] == ["cut by the client"]
    assert not marked(agent.id)


def test_a_kill_in_the_middle_of_a_call_leaves_no_process(service: Service, make: MakeAgent) -> None:
    mark = fresh_mark("held")
    run = f"(setsid sh -c 'trap \"\" TERM; : {mark}; sleep 1000; :' &) ; {hold(mark)['run']}"
    agent = make({"do": {"run": run}})
    until(lambda: len(marked(mark)) >= 2, "it runs", 60)
    killed = service.call("POST", f"/agents/{agent.id}/kill")[1]
    assert (killed["status"], killed["remaining"]) == ("killed", 0), killed
    assert killed["killedProcesses"] >= 3
    assert not marked(mark)
    assert not marked(agent.id)
    assert len(agent.turns()) == 1


@pytest.mark.parametrize(
    ("kind", "after"),
    [pytest.param(kind, after, id=f"{kind.name}-{after}") for kind in KINDS for after in kind.crashes],
)
def test_the_same_agent_goes_on_after_a_crash_between_two_turns(
    mortal: Service, api: ScriptedApi, kind: Kind, after: int
) -> None:
    kind.options()  # or skip
    calls = [{"do": {"run": f"echo {number} >> turns"}} for number in range(3)]
    steps = [*calls, {"say": "done"}]
    steps[after + 1] = {**steps[after + 1], "fault": {"kind": "hang", "times": 1}}
    went_on = {"if": WENT_ON, "steps": [*calls, {"say": "done"}][after + 1 :]}
    agent = Agent(mortal, api, kind, *steps, branches=[went_on])
    until(lambda: len(agent.turns()) == after + 2, "so many turns are taken, and the next is asked for", 60)
    until(lambda: mortal.status(agent.id)["usage"]["toolCalls"] == after + 1, "its calls are counted")
    mortal.kill9()
    until(lambda: not marked(agent.id), "nothing of it is left")
    mortal.start()
    agent.wait()
    assert agent.show("turns") == "0\n1\n2\n"
    served = [request for request in agent.turns() if request.how == "served"]
    assert len(served) == 4
    assert f"echo {after}" in said(served[after + 1])


def test_a_call_that_was_cut_by_a_crash_is_told_as_such(
    mortal: Service, api: ScriptedApi, kind: Kind
) -> None:
    mark = fresh_mark("cut")
    rest = [{"do": {"run": "wc -l runs"}}, {"say": "ok"}]
    once = {"do": {"run": f"echo once >> runs; {hold(mark)['run']}"}}
    agent = Agent(mortal, api, kind, once, *rest, branches=[{"if": WENT_ON, "steps": rest}])
    until(lambda: marked(mark), "it runs", 60)
    mortal.kill9()
    until(lambda: not marked(mark), "nothing of it is left")
    mortal.start()
    agent.wait()
    assert agent.show("runs") == "once\n"
    assert len(agent.turns()) == 3
    assert kind.cut_call in told(agent.turns()[1])


def test_a_call_beyond_the_memory_ends_alone_or_with_its_agent(
    service: Service, kind: Kind, make: MakeAgent
) -> None:
    run = f"python3 -c 'x = b\"x\" * ({kind.memory_mb + 64} * 2**20); import time; time.sleep(1000)'"
    resources = {"resources": {"memoryMb": kind.memory_mb}}
    agent = make({"do": {"run": run}}, {"say": "it was killed"}, options=resources)
    assert service.wait(agent.id, within_s=END_S)["reason"] in {"oom", "no_changes"}


def test_a_freeze_stops_a_call_and_its_deadline(service: Service, kind: Kind, make: MakeAgent) -> None:
    mark = fresh_mark("frozen")
    run = f"sh -c ': {mark}; perl -e \"sleep 1\"; :'; echo on > f"
    agent = make({"do": kind.timed(run, 3)}, {"say": "done"})
    until(lambda: marked(mark), "it runs", 60)
    assert service.call("POST", "/freeze")[0] == 200
    pause(4 if "tool" in kind.timed(run, 3) else 2)
    asked = len(agent.turns())
    assert service.call("POST", "/thaw")[0] == 200
    agent.wait()
    assert (asked, agent.show("f")) == (1, "on\n")


def test_a_task_without_runtime_and_command_is_done_by_a_model(service: Service, api: ScriptedApi) -> None:
    claude_binary()
    remote = make_remote(service.remotes, fresh_mark("repo"))
    name = fresh_mark("default")
    body = service.request_body(remote, "unused", name)
    body["options"] = {"maxRetries": 0}
    body["context"]["instructions"] = script({"do": {"run": "echo x > x"}}, {"say": "done"}, agent=name)
    status, answer = service.call("POST", "/agents/spawn", body)
    assert status == 201, answer
    end = service.wait(answer["agentId"])
    assert (end["status"], end["runtime"]) == ("completed", "claude-code"), end
    assert len(api.messages(name)) == 2
