"""The whole with a coordinator for a judge: sound, rejecting, and in every way of trouble."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit import coordinator as kit
from tests.kit.coordinator import APPROVES, REJECTS, Coordinator, answer, running
from tests.kit.plane import GATED
from tests.kit.remote import branches, git, make_remote
from tests.kit.service import Service
from tests.kit.until import until
from tests.system.conftest import shared_root

#: A body that drips is given half a minute.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

STANDARD = {"gateProfile": "standard", "gates": ["tests"]}


@pytest.fixture(scope="module")
def coordinator() -> Iterator[Coordinator]:
    """Return a coordinator that approves what nothing else is scripted for."""
    with running(APPROVES) as found:
        yield found


@pytest.fixture(scope="module")
def service(coordinator: Coordinator) -> Iterator[Service]:
    """Return a supervisor that asks it, and it alone."""
    with shared_root() as root, Service(root, COORDINATOR_URL=coordinator.url) as found:
        yield found


def unique(name: str) -> str:
    """Return a task id that no other test uses."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def verdicts(service: Service, agent: str) -> list[dict[str, Any]]:
    """Return what the gates said of an agent's work."""
    return list(service.call("GET", f"/agents/{agent}/gates")[1]["gates"])


def test_coordinator_is_asked_before_and_after_the_commit(service: Service, coordinator: Coordinator) -> None:
    remote, task = make_remote(service.remotes, unique("asked")), unique("T")
    agent = service.spawn(remote, "echo new > new.txt; rm README.md", task, **STANDARD)
    end = service.wait(agent)
    assert (end["status"], end["reason"]) == ("completed", "done"), end
    early, late = (asked for asked in coordinator.asked if asked["taskId"] == task)
    assert (early["phase"], late["phase"]) == ("pre-commit", "post-commit")
    assert early | {"phase": late["phase"]} == late
    assert late == {
        "taskId": task,
        "agentId": agent,
        "phase": "post-commit",
        "gateProfile": "standard",
        "gates": ["tests"],
        "repository": f"file://{remote}",
        "branch": "main",
        "commit": end["commit"],
        "files": ["README.md", "new.txt"],
        "diffSummary": {"files": 2, "additions": 1, "deletions": 1},
        "aiShare": 1.0,
    }
    assert [(said["gate"], said["approved"]) for said in verdicts(service, agent)] == [("quality", True)] * 2
    assert service.call("GET", "/health/ready")[1]["checks"]["coordinator"] == "ok"


def test_rejection_is_the_agents_next_turn(service: Service, coordinator: Coordinator) -> None:
    remote, task = make_remote(service.remotes, unique("rejected")), unique("T")
    coordinator.by_task[task] = once_rejected(coordinator, task)
    script = 'cat "$ORCHESTRATOR_PROMPT_FILE" > prompt-$ORCHESTRATOR_TURN.txt; sleep 0'
    end = service.wait(service.spawn(remote, script, task, **STANDARD))
    assert end["status"] == "completed", end
    prompt = git("show", f"agent/{task}:prompt-2.txt", cwd=remote)
    assert "gate coverage: coordinator: only 12 % of the lines are covered" in prompt


def once_rejected(coordinator: Coordinator, task: str) -> kit.Manner:
    """Return the manner of one who rejects a task's first candidate."""

    def speak(connection: socket.socket) -> None:
        first = sum(asked["taskId"] == task for asked in coordinator.asked) == 1
        (REJECTS if first else APPROVES)(connection)

    return speak


def test_kill_does_not_wait_for_a_coordinator(service: Service, coordinator: Coordinator) -> None:
    task = unique("T")
    coordinator.by_task[task] = kit.mute
    agent = service.spawn(make_remote(service.remotes, unique("mute")), "echo a > a", task, **STANDARD)
    until(lambda: task in [asked["taskId"] for asked in coordinator.asked], "it is asked")
    status, proof = service.call("POST", f"/agents/{agent}/kill")
    assert (status, proof["remaining"]) == (200, 0)
    assert service.wait(agent)["reason"] == "operator"


def test_task_without_gates_is_judged_by_nobody(service: Service, coordinator: Coordinator) -> None:
    task = unique("T")
    agent = service.spawn(make_remote(service.remotes, unique("none")), "echo a > a", task)
    assert service.wait(agent)["status"] == "completed"
    assert task not in [asked["taskId"] for asked in coordinator.asked]


TROUBLE = {
    "down": (kit.hangs_up, "coordinator_unavailable: asked 5 times"),
    "error": (answer(b"", "500 No"), "coordinator_unavailable: asked 5 times; at last: it answered 500"),
    "garbage": (kit.garbage, "coordinator_bad_answer"),
    "long": (answer(b" " * 10_000_000), "coordinator_bad_answer: its answer is larger"),
    "moved": (
        answer(b"", "302 Found", "Location: http://localhost:1/"),
        "coordinator_bad_answer: it answered 302",
    ),
    "slow": (kit.drips, "coordinator_bad_answer: its answer did not come whole"),
}


def test_without_a_sound_answer_nothing_lands_and_the_work_is_kept(
    service: Service, coordinator: Coordinator
) -> None:
    agents: dict[str, tuple[str, Path]] = {}
    for name, (manner, _) in TROUBLE.items():
        remote, task = make_remote(service.remotes, unique(name)), unique("T")
        coordinator.by_task[task] = manner
        agents[name] = service.spawn(remote, "echo work > work.txt", task, **STANDARD), remote
    for name, (agent, remote) in agents.items():
        end = service.wait(agent, within_s=120)
        why = TROUBLE[name][1]
        assert (end["status"], end["reason"]) == ("failed", "gate_rejected"), end
        assert end["error"].startswith(why), end
        (verdict,) = verdicts(service, agent)
        assert (verdict["gate"], verdict["approved"]) == ("coordinator", False)
        assert verdict["message"].startswith(why)
        assert end["usage"]["turns"] <= 1
        assert list(branches(remote)) == ["main"]
        service.wait_phase(agent, None)
        assert "+work" in service.call("GET", f"/agents/{agent}/diff")[1]


def test_both_judge_and_the_cheaper_first(reachable_path: Path) -> None:
    with (
        running(APPROVES, REJECTS) as coordinator,
        Service(reachable_path, COORDINATOR_URL=coordinator.url, GATES="both") as service,
    ):
        remote = make_remote(service.remotes, "gated", GATED)
        bad = service.spawn(remote, "echo -1 > value", "BAD", gateProfile="minimal", gates=None)
        assert service.wait(bad)["reason"] == "gate_rejected"
        assert not coordinator.asked
        good = service.spawn(remote, "echo 7 > value", "GOOD", gateProfile="minimal", gates=None)
        assert service.wait(good)["reason"] == "gate_rejected"
        said = [(each["gate"], each["approved"], each["round"]) for each in verdicts(service, good)]
        assert said[:3] == [("tests", True, 1), ("quality", True, 1), ("coverage", False, 1)]
        assert list(branches(remote)) == ["main"]
