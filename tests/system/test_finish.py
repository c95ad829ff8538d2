"""What happens between the end of a run and the end of its agent, when something cuts in."""

from __future__ import annotations

import os
from pathlib import Path

from tests.kit.processes import marked
from tests.kit.remote import branches, hook, make_remote
from tests.kit.service import Service
from tests.kit.until import until

#: Leaves work that takes a while to salvage.
HEAVY = "head -c 60000000 /dev/urandom > big; echo w > work;"


def types(service: Service, task: str) -> list[str]:
    """Return the names of a task's events, in order."""
    return [event["type"] for event in service.task_events(task)]


def waiting_hook(service: Service, remote: Path) -> None:
    """Let the remote hold the answer of a push back until the file `go` is there."""
    root = service.root
    hook(remote, "post-receive", f"touch {root}/arrived; while [ ! -e {root}/go ]; do sleep 0.05; done")


def test_work_that_landed_is_done_although_its_time_ran_out(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    waiting_hook(service, remote)
    agent = service.spawn(remote, "echo 1 > a", "late", options={"timeout": 5, "maxRetries": 2})
    end = service.wait(agent)
    (service.root / "go").touch()
    assert (end["status"], end["reason"], end["attempt"]) == ("completed", "done", 1), end
    assert branches(remote)["agent/late"] == end["commit"]
    assert types(service, "late").count("push.completed") == 1


def test_stop_during_a_push_does_not_do_the_work_again(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    waiting_hook(service, remote)
    agent = service.spawn(remote, "echo 1 > a", "stopped")
    until((service.root / "arrived").exists, "the push arrived")
    assert service.stop() == 0
    (service.root / "go").touch()
    service.start()
    end = service.wait(agent)
    assert (end["status"], end["usage"]["turns"]) == ("completed", 1), end
    assert branches(remote)["agent/stopped"] == end["commit"]
    assert types(service, "stopped").count("push.completed") == 1


def test_push_cut_by_a_crash_before_it_arrived_is_ended_and_done_once(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    root = service.root
    hook(remote, "pre-receive", f"touch {root}/asked; while [ ! -e {root}/go ]; do sleep 0.05; done")
    agent = service.spawn(remote, "echo 1 > a", "cut")
    until((root / "asked").exists, "the remote was asked")
    service.kill9()
    assert marked(f"{remote}")
    service.start()
    assert "agent/cut" not in branches(remote)
    (root / "go").touch()
    end = service.wait(agent)
    assert (end["status"], end["reason"]) == ("completed", "done"), end
    assert branches(remote)["agent/cut"] == end["commit"]
    assert types(service, "cut").count("push.completed") == 1


def test_second_kill_does_not_cost_the_salvage(service: Service, remotes: Path) -> None:
    remote = make_remote(remotes, "second-kill")
    agent = service.spawn(remote, HEAVY + "exec sleep 1000.0175", "second-kill")
    until(lambda: marked("sleep\x001000.0175"), "the work is there")
    assert service.call("POST", f"/agents/{agent}/kill")[0] == 200
    service.call("POST", f"/agents/{agent}/kill")
    service.call("POST", "/agents/kill-all")
    until(lambda: "agent.cleanup" in types(service, "second-kill"), "it is cleaned up after")
    cleanup = next(e for e in service.task_events("second-kill") if e["type"] == "agent.cleanup")
    assert cleanup["data"]["salvage"] == f"refs/salvage/{agent}", cleanup
    assert not service.agent_directories()


def test_kill_all_during_a_salvage_also_prevents_the_retry(service: Service, remotes: Path) -> None:
    remote = make_remote(remotes, "no-retry")
    agent = service.spawn(remote, HEAVY + "exit 3", "no-retry", options={"maxRetries": 3})
    until(lambda: "agent.turn" in types(service, "no-retry"), "the run is over")
    status, answer = service.call("POST", "/agents/kill-all")
    assert (status, answer["remaining"], answer["failed"]) == (200, 0, 0)
    task = service.call("GET", "/tasks/no-retry")[1]
    assert task["status"] == "cancelled", task
    assert service.status(agent)["status"] in {"killed", "failed"}
    until(lambda: not service.agent_directories(), "it is cleaned up after")


def test_agent_that_locks_its_own_directory_hurts_nobody(service: Service, remotes: Path) -> None:
    remote = make_remote(remotes, "locked")
    agents = [
        service.spawn(remote, "echo x > f; chmod 000 .; exit 3", "locked-3"),
        service.spawn(remote, "echo x > f; chmod 000 .", "locked-0"),
        service.spawn(remote, "echo x > f; chmod 333 .; sleep 1000.0225", "locked-kill"),
    ]
    until(lambda: marked("sleep\x001000.0225"), "the third has locked itself in")
    assert service.call("POST", f"/agents/{agents[2]}/kill")[0] == 200
    for agent in agents:
        assert service.wait(agent)["status"] in {"failed", "completed", "killed"}
    until(lambda: not service.agent_directories(), "all is removed")
    assert service.call("GET", "/health/ready")[0] == 200


def test_turns_beyond_the_budget_are_not_taken(service: Service, remotes: Path) -> None:
    gate = {"a": "1\n", "orchestrator.toml": '[gates.tests]\ncommand = ["false"]\n'}
    remote = make_remote(remotes, "budget", gate)
    options = {"budget": {"turns": 1}}
    agent = service.spawn(remote, "echo 2 > a", gateProfile="minimal", gates=None, options=options)
    end = service.wait(agent)
    assert (end["status"], end["reason"], end["usage"]["turns"]) == ("failed", "budget_exceeded", 1), end


def test_home_holds_what_it_held_after_a_repository_that_is_none(service: Service, remotes: Path) -> None:
    empty = remotes / "empty"
    empty.mkdir(exist_ok=True)
    mirrors = service.home / "mirrors"
    before = sorted(os.listdir(mirrors))  # noqa: PTH208 - names
    end = service.wait(service.spawn(empty, "true"))
    assert (end["status"], end["reason"]) == ("failed", "repository_error"), end
    assert sorted(os.listdir(mirrors)) == before  # noqa: PTH208 - names
