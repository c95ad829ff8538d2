"""A cut agent goes on where it was: on its worktree and its commit, from its last finished turn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.recovery import directory_of
from tests.kit.remote import branches, git, make_remote
from tests.kit.service import Service
from tests.kit.until import until

#: A gate that lets the work through once it says so, and takes a while about it.
GATE = '[gates.tests]\ncommand = ["sh", "-c", "sleep 2; grep good f"]\n'
GATED: dict[str, Any] = {"gateProfile": "minimal", "gates": None}


def advance(remote: Path) -> None:
    """Let somebody else push to main."""
    seed = remote.with_suffix(".seed")
    (seed / "elsewhere").write_text("x\n")
    git("add", "-A", cwd=seed)
    git("commit", "-qm", "elsewhere", cwd=seed)
    git("push", "-q", str(remote), "main", cwd=seed)


def cut(service: Service, how: str) -> None:
    """End the supervisor."""
    if how == "stop":
        assert service.stop() == 0
    else:
        service.kill9()


def starts(service: Service, task: str) -> list[dict[str, Any]]:
    """Return what was journaled of each start of a task's agents."""
    phases = [e["data"] for e in service.task_events(task) if e["type"] == "agent.phase"]
    return [data for data in phases if data["phase"] == "starting"]


def wait_for_file(service: Service, agent: str, task: str, name: str) -> None:
    """Wait until an agent has made a file in its worktree."""
    room = service.home / "workspaces" / directory_of(agent, task)
    until(lambda: [*room.glob(f"upper/{name}"), *room.glob(f"tree/{name}")], f"{name} is there")


@pytest.mark.parametrize("how", ["stop", "crash"])
def test_a_turn_that_was_cut_is_taken_again_on_the_same_files_and_commit(
    own_service: Service, how: str
) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    base = branches(remote)["main"]
    script = (
        'echo "$ORCHESTRATOR_TURN $ORCHESTRATOR_RESUMED" >> lives; cat $ORCHESTRATOR_PROMPT_FILE >> prompts;'
        '[ "$ORCHESTRATOR_RESUMED" = 1 ] || { touch there; sleep 1000; }'
    )
    agent = service.spawn(remote, script, "cut")
    wait_for_file(service, agent, "cut", "there")
    cut(service, how)
    advance(remote)
    service.start()
    end = service.wait(agent)
    assert (end["status"], end["usage"]["turns"]) == ("completed", 1), end
    assert git("show", "agent/cut:lives", cwd=remote) == "1 \n1 1\n"
    assert {start["base"] for start in starts(service, "cut")} == {base}
    # It landed where the branch is now.
    assert git("rev-parse", "agent/cut^", cwd=remote).strip() == branches(remote)["main"]
    prompts = git("show", "agent/cut:prompts", cwd=remote)
    assert prompts[: len(prompts) // 2] * 2 == prompts
    assert [start["worktree"] for start in starts(service, "cut")] == ["new", "kept"]
    assert not service.agent_directories()


@pytest.mark.parametrize("how", ["stop", "crash"])
def test_a_turn_that_was_finished_is_judged_and_not_taken_again(own_service: Service, how: str) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes, files={"f": "bad\n", "orchestrator.toml": GATE})
    agent = service.spawn(remote, "echo good > f; echo 1 >> turns", "judged", **GATED)
    service.wait_phase(agent, "checking")
    cut(service, how)
    service.start()
    end = service.wait(agent)
    assert (end["status"], end["usage"]["turns"]) == ("completed", 1), end
    assert git("show", "agent/judged:turns", cwd=remote) == "1\n"


def test_a_turn_after_a_rejection_is_taken_again_with_the_reasons(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes, files={"f": "bad\n", "orchestrator.toml": GATE})
    script = (
        'echo "$ORCHESTRATOR_TURN" >> turns; [ "$ORCHESTRATOR_TURN" = 1 ] && exit;'
        "cp $ORCHESTRATOR_PROMPT_FILE prompt$ORCHESTRATOR_RESUMED;"
        'if [ "$ORCHESTRATOR_RESUMED" = 1 ]; then echo good > f; else touch second; sleep 1000; fi'
    )
    agent = service.spawn(remote, script, "again", **GATED)
    wait_for_file(service, agent, "again", "second")
    service.kill9()
    service.start()
    end = service.wait(agent)
    assert (end["status"], end["usage"]["turns"]) == ("completed", 2), end
    assert git("show", "agent/again:turns", cwd=remote) == "1\n2\n2\n"
    prompt = git("show", "agent/again:prompt", cwd=remote)
    assert "was rejected (round 1)" in prompt
    assert "gate tests" in prompt
    assert git("show", "agent/again:prompt1", cwd=remote) == prompt


def test_a_worktree_that_cannot_be_trusted_is_replaced_and_that_is_said(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    script = 'echo 1 >> lives; [ "$ORCHESTRATOR_RESUMED" = 1 ] || { touch there; sleep 1000; }'
    agent = service.spawn(remote, script, "torn")
    wait_for_file(service, agent, "torn", "there")
    service.kill9()
    tenancy = service.home / "quarantine" / directory_of(agent, "torn") / "tenancy.json"
    tenancy.write_text(json.dumps(json.loads(tenancy.read_text()) | {"boot": "the one before"}))
    service.start()
    assert service.wait(agent)["status"] == "completed"
    assert git("show", "agent/torn:lives", cwd=remote) == "1\n"
    first, second = starts(service, "torn")
    assert (first["worktree"], second["worktree"]) == ("new", "new")
    assert "the host went down" in second["detail"]
    assert "begins anew" in service.call("GET", f"/agents/{agent}/logs?stream=system")[1]["content"]
    assert not service.agent_directories()


def cleanup(service: Service, task: str) -> dict[str, Any] | None:
    """Return what was journaled of the clean-up after a task's agent."""
    found = [e["data"] for e in service.task_events(task) if e["type"] == "agent.cleanup"]
    return dict(found[-1]) if found else None


def test_a_kill_while_it_waits_to_go_on_keeps_the_work_and_removes_the_rest(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    agent = service.spawn(remote, "echo precious > p; touch there; sleep 1000", "waits")
    wait_for_file(service, agent, "waits", "there")
    assert service.call("POST", "/queue/pause")[0] == 200
    service.kill9()
    service.start()
    assert service.status(agent)["phase"] == "queued"
    assert len(service.agent_directories()) == 1
    assert service.call("POST", f"/agents/{agent}/kill")[1]["remaining"] == 0
    seen = until(lambda: cleanup(service, "waits"), "it is cleaned up after")
    assert seen["salvage"] == f"refs/salvage/{agent}", seen
    assert not service.agent_directories()
    assert "+precious" in service.call("GET", f"/agents/{agent}/diff")[1]


def test_the_work_of_an_agent_that_crashed_too_often_is_kept(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    agent = service.spawn(remote, 'echo 1 >> lives; touch "there$(wc -l < lives)"; sleep 1000', "loop")
    for life in (1, 2, 3):
        wait_for_file(service, agent, "loop", f"there{life}")
        service.kill9()
        service.start()
    assert service.wait(agent)["reason"] == "crash_loop"
    seen = until(lambda: cleanup(service, "loop"), "it is cleaned up after")
    assert seen["salvage"] == f"refs/salvage/{agent}", seen
    assert "+1\n+1\n+1" in service.call("GET", f"/agents/{agent}/diff")[1]
    assert not service.agent_directories()
