"""A repository's set-up through the whole: packages come by the proxy, once, for all agents and gates."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.kit.registry import open_registry
from tests.kit.remote import branches, git, make_remote
from tests.kit.service import Service
from tests.kit.until import until

GATE = "[gates.tests]\ncommand = ['sh', 'gate.sh']\n"
SAYS = "hello from the wheel\nhello from npm\n"


def logged(service: Service, agent: str) -> str:
    """Return what the agent's log has of its set-up."""
    status, text = service.call("GET", f"/agents/{agent}/logs")
    assert status == 200
    return text if isinstance(text, str) else str(text)


def phases(service: Service, task: str) -> list[tuple[Any, Any]]:
    """Return the phases that the task's agents went through, with what is told of each."""
    events = service.task_events(task)
    return [(e["data"]["phase"], e["data"].get("detail")) for e in events if e["type"] == "agent.phase"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_packages_are_installed_once_by_the_proxy_for_agents_and_gates(reachable_path: Path) -> None:
    if shutil.which("npm", path="/usr/local/bin:/usr/bin:/bin") is None:
        pytest.skip("npm is missing")
    with open_registry() as registry, Service(reachable_path, SANDBOX_EGRESS=registry.host) as service:
        use = "hello-wheel >said && hello-npm >>said"
        gate = f"{use} && echo 1..1 && echo ok 1 - said\n"
        files = {"orchestrator.toml": GATE, "gate.sh": gate, "README.md": "x\n"}
        remote = make_remote(service.remotes, "r", files | registry.python_files() | registry.node_files())
        narrowed: dict[str, Any] = {"network": {"allow": []}}
        agent = service.spawn(remote, use, "first", gates=["tests"], options=narrowed)
        ended = service.wait(agent, within_s=180)
        assert ended["status"] == "completed", (service.task_events("first"), logged(service, agent))
        assert git("show", "agent/first:said", cwd=remote) == SAYS
        changed = git("diff", "--name-only", "main", "agent/first", cwd=remote).split()
        assert changed == ["said"]
        assert phases(service, "first")[0] == ("preparing", "set-up")
        asked = len(registry.asked)
        assert asked >= 3
        again = service.spawn(remote, use, "second", gates=["tests"])
        assert service.wait(again)["status"] == "completed", service.task_events("second")
        assert (len(registry.asked), phases(service, "second")[0][0]) == (asked, "starting")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_failed_set_up_fails_its_task_and_a_cut_one_is_handed_on(own_service: Service) -> None:
    service = own_service
    service.start()
    toml = "[setup]\ncommand = 'echo no such package; exit 3'\ninputs = ['README.md']\n"
    remote = make_remote(service.remotes, "bad", {"orchestrator.toml": toml, "README.md": "x\n"})
    agent = service.spawn(remote, "true", "bad", options={"maxRetries": 3})
    ended = service.wait(agent)
    assert (ended["status"], ended["reason"], ended["nextAgentId"]) == ("failed", "repository_error", None)
    assert "no such package" in ended["error"]
    assert "exit status 3" in ended["error"]
    assert "set-up: no such package" in logged(service, agent)

    toml = "[setup]\ncommand = 'echo begun; sleep 3; mkdir .venv; echo done >.venv/x'\n"
    slow = make_remote(service.remotes, "slow", {"orchestrator.toml": toml, "README.md": "x\n"})
    agents = [service.spawn(slow, "cat .venv/x >said", f"slow-{n}") for n in range(3)]

    def runner() -> str | None:
        return next((each for each in agents if "set-up: begun" in logged(service, each)), None)

    first = until(runner, "one runs the set-up")
    assert first is not None
    until(
        lambda: all(phases(service, f"slow-{n}") == [("preparing", "set-up")] for n in range(3)), "all wait"
    )
    status, killed = service.call("POST", f"/agents/{first}/kill")
    assert (status, killed["remaining"]) == (200, 0)
    others = [each for each in agents if each != first]
    assert [service.wait(each)["status"] for each in others] == ["completed", "completed"]
    begun = [each for each in agents if "set-up: begun" in logged(service, each)]
    assert len(begun) == 2
    assert len([name for name in branches(slow) if name.startswith("agent/slow-")]) == 2
