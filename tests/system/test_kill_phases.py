"""A kill in every phase: proof, no process, no worktree, and a remote that is unchanged or wholly updated."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.processes import marked
from tests.kit.remote import branches, git, hook, make_remote
from tests.kit.service import Service
from tests.kit.until import pause, until

SETTINGS = {"REPOSITORY_HOSTS": "127.0.0.1"}
NAP = "1000.0625"
SLOW_GATE = {"a": "1\n", "orchestrator.toml": f'[gates.tests]\ncommand = ["sleep", "{NAP}"]\ntimeout = 600\n'}


def kill(service: Service, agent: str) -> dict[str, object]:
    """Kill the agent and check everything that the answer promises."""
    status, answer = service.call("POST", f"/agents/{agent}/kill")
    assert status == 200, answer
    assert (answer["agentId"], answer["status"], answer["remaining"]) == (agent, "killed", 0)
    state = service.status(agent)
    assert (state["status"], state["reason"]) == ("killed", "operator")
    return dict(answer)


def wait_clean(service: Service) -> None:
    """Wait until no agent has a directory (salvage goes on for a moment after the kill's answer)."""
    until(lambda: not service.agent_directories(), "no worktree is left")


def task_name() -> str:
    """Return a task id that no other test uses."""
    return f"k-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def mute_server() -> Iterator[int]:
    """Return the port of a server that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_kill_while_queued(service: Service, remotes: Path) -> None:
    remote = make_remote(remotes, task_name())
    assert service.call("POST", "/queue/pause")[0] == 200
    try:
        agent = service.spawn(remote, "echo never > never")
        assert service.status(agent)["phase"] == "queued"
        assert kill(service, agent)["killedProcesses"] == 0
    finally:
        service.call("POST", "/queue/resume")
    assert set(branches(remote)) == {"main"}


def test_kill_while_cloning(service: Service, mute_server: int) -> None:
    agent = service.spawn(f"https://127.0.0.1:{mute_server}/repo.git", "true")
    service.wait_phase(agent, "preparing")
    until(lambda: marked(f"127.0.0.1:{mute_server}"), "git never asked the remote")
    kill(service, agent)
    assert not marked(f"127.0.0.1:{mute_server}")
    wait_clean(service)


def test_kill_while_working(service: Service, remotes: Path) -> None:
    remote, marker = make_remote(remotes, task_name()), task_name()
    script = "echo half > half; setsid sleep 1000 & (trap '' TERM; sleep 1000) & echo up; sleep 1000"
    agent = service.spawn(remote, script, options={"env": {"MARK": marker}})
    service.wait_phase(agent, "working")
    until(lambda: len(marked(marker)) >= 4, "four processes run")
    answer = kill(service, agent)
    assert not marked(marker)
    assert isinstance(answer["killedProcesses"], int)
    assert answer["killedProcesses"] >= 4
    assert set(branches(remote)) == {"main"}
    wait_clean(service)


def test_kill_while_checking(service: Service, remotes: Path) -> None:
    remote = make_remote(remotes, task_name(), SLOW_GATE)
    agent = service.spawn(remote, "echo 2 > a", gateProfile="minimal", gates=None)
    service.wait_phase(agent, "checking")
    until(lambda: marked(NAP), "the gate runs")
    kill(service, agent)
    assert not marked(NAP)
    assert set(branches(remote)) == {"main"}
    wait_clean(service)


def test_nothing_that_the_agent_wrote_runs_after_the_kill(service: Service, remotes: Path) -> None:
    remote = make_remote(remotes, task_name())
    script = """
        git config filter.x.clean 'sh -c "cat; sleep 1000.0375"'
        echo '* filter=x' > .gitattributes
        echo 1 > a
        printf '#!/bin/sh\\nsleep 1000.0375' > .git/hooks/pre-push
        chmod +x .git/hooks/pre-push
        exec sleep 1000.0425
    """
    agent = service.spawn(remote, script)
    service.wait_phase(agent, "working")
    until(lambda: marked("sleep\x001000.0425"), "the script has come to its sleep")
    kill(service, agent)
    wait_clean(service)
    service.wait_phase(agent, None)  # the clean-up is journaled a moment after it is done
    assert not marked("1000.0375")
    cleanup = [
        e for e in service.task_events(service.status(agent)["taskId"]) if e["type"] == "agent.cleanup"
    ]
    assert cleanup[0]["data"] == {"leftBehind": [], "salvage": f"refs/salvage/{agent}"}


def test_kill_while_pushing(service: Service, remotes: Path) -> None:
    remote, task = make_remote(remotes, task_name()), task_name()
    marker = f"hook-{task}"
    hook(remote, "pre-receive", f"exec sh -c 'while :; do sleep 0.05; done' {marker}")
    agent = service.spawn(remote, "echo 2 > b", task)
    service.wait_phase(agent, "landing")
    until(lambda: marked(marker), "the push never reached the remote")
    kill(service, agent)
    wait_clean(service)
    assert set(branches(remote)) == {"main"}
    assert git("fsck", "--no-dangling", cwd=remote) == ""
    hook(remote, "pre-receive", "exit 0")
    again = service.wait(service.spawn(remote, "echo 3 > b", task))
    assert (again["status"], again["reason"]) == ("completed", "done"), again


def test_kill_at_any_moment_leaves_nothing(service: Service, remotes: Path) -> None:
    remote = make_remote(remotes, task_name())
    for n in range(25):
        marker, task = task_name(), task_name()
        agent = service.spawn(remote, f"echo {n} > n; sleep 0.01", task, options={"env": {"MARK": marker}})
        pause(n * 0.012)
        status, answer = service.call("POST", f"/agents/{agent}/kill")
        assert status in {200, 409}, answer
        assert status == 409 or answer["remaining"] == 0
        end = service.status(agent)
        assert end["status"] in {"killed", "completed"}, end
        assert not marked(marker)
        landed = f"agent/{task}" in branches(remote)
        assert landed or end["status"] == "killed", end
    wait_clean(service)


def test_kill_is_audited_and_unknown_or_ended_agents_are_told_apart(service: Service, remotes: Path) -> None:
    remote = make_remote(remotes, task_name())
    agent = service.spawn(remote, "true")
    service.wait(agent)
    status, problem = service.call("POST", f"/agents/{agent}/kill")
    assert (status, problem["code"]) == (409, "already_ended")
    status, problem = service.call("POST", "/agents/no-such-agent/kill")
    assert (status, problem["code"]) == (404, "agent_not_found")


def test_kill_all_ends_running_and_waiting_agents(service: Service, remotes: Path) -> None:
    remote, marker = make_remote(remotes, task_name()), task_name()
    agents = [service.spawn(remote, "sleep 1000", options={"env": {"MARK": marker}}) for _ in range(12)]
    for agent in agents[:10]:
        service.wait_phase(agent, "working")
    status, answer = service.call("POST", "/agents/kill-all")
    assert status == 200
    assert (answer["total"], answer["killed"], answer["failed"], answer["remaining"]) == (12, 12, 0, 0), (
        answer
    )
    assert not marked(marker)
    assert service.call("POST", "/agents/kill-all")[1]["total"] == 0
    wait_clean(service)
