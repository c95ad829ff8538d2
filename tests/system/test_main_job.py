"""The main job, end to end: a task in over REST, a judged and pushed branch out on a real remote."""

from __future__ import annotations

import uuid
from pathlib import Path

from tests.kit.processes import marked
from tests.kit.remote import branches, git, make_remote
from tests.kit.service import Service

GATED = {
    "README.md": "hello\n",
    "value": "1\n",
    "test.sh": 'echo "1..1"; if [ "$(cat value)" -gt 0 ]; then echo "ok 1 - positive"; '
    'else echo "not ok 1 - positive"; exit 1; fi\n',
    "orchestrator.toml": '[gates.tests]\ncommand = ["sh", "test.sh"]\ntimeout = 60\n',
}


def unique(name: str) -> str:
    """Return a task id that no other test uses."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def test_agent_that_writes_files_lands_one_commit(service: Service, remotes: Path) -> None:
    remote, task = make_remote(remotes, unique("lands")), unique("T")
    agent = service.spawn(remote, "echo new > new.txt; mkdir -p d; echo x > d/x; rm README.md; echo hi", task)
    end = service.wait(agent)
    assert (end["status"], end["reason"]) == ("completed", "done"), end
    branch = f"agent/{task}"
    assert branches(remote)[branch] == end["commit"]
    assert git("show", f"{branch}:new.txt", cwd=remote) == "new\n"
    assert "README.md" not in git("ls-tree", "-r", "--name-only", branch, cwd=remote)
    assert git("rev-list", "--count", f"main..{branch}", cwd=remote).strip() == "1"
    message = git("log", "-1", "--format=%B%an <%ae>|%cn <%ce>", branch, cwd=remote)
    assert f"Task: {task}" in message
    assert f"Agent: {agent}" in message
    assert message.rstrip().endswith(
        "Orchestrator <orchestrator@localhost>|Orchestrator <orchestrator@localhost>"
    )
    service.wait_phase(agent, None)  # the clean-up is journaled a moment after the end
    types = [event["type"] for event in service.task_events(task)]
    for earlier, later in [
        ("task.submitted", "agent.spawning"),
        ("agent.spawning", "task.assigned"),
        ("task.assigned", "agent.running"),
        ("agent.running", "agent.turn"),
        ("agent.turn", "commit.created"),
        ("commit.created", "push.completed"),
        ("push.completed", "agent.completed"),
        ("agent.completed", "agent.cleanup"),
    ]:
        assert types.index(earlier) < types.index(later), types
    assert not service.agent_directories()


def test_commits_of_the_agent_become_one_over_the_base(service: Service, remotes: Path) -> None:
    remote, task = make_remote(remotes, unique("commits")), unique("T")
    script = (
        "git config user.name x; git config user.email x@x; echo 1 > a; git add a; git commit -qm First;"
        " echo 2 > b; git add b; git commit -qm 'Second step'; echo 3 > c"
    )
    assert service.wait(service.spawn(remote, script, task))["status"] == "completed"
    assert git("rev-list", "--count", f"main..agent/{task}", cwd=remote).strip() == "1"
    assert git("show", f"agent/{task}:c", cwd=remote) == "3\n"
    assert git("show", f"agent/{task}:a", cwd=remote) == "1\n"


def test_agent_that_changes_nothing_pushes_nothing(service: Service, remotes: Path) -> None:
    remote, task = make_remote(remotes, unique("nothing")), unique("T")
    end = service.wait(service.spawn(remote, "cat README.md", task))
    assert (end["status"], end["reason"]) == ("completed", "no_changes"), end
    assert "error" not in end
    assert set(branches(remote)) == {"main"}
    assert not service.agent_directories()


def test_agent_that_stashed_its_work_is_told_that_nothing_landed(service: Service, remotes: Path) -> None:
    remote, task = make_remote(remotes, unique("stash")), unique("T")
    script = "echo x > x; git add x; git -c user.name=x -c user.email=x@x stash -q"
    end = service.wait(service.spawn(remote, script, task))
    assert (end["status"], end["reason"]) == ("completed", "no_changes"), end
    assert "git stash" in end["error"]
    assert set(branches(remote)) == {"main"}


def test_agent_that_fails_says_how_and_keeps_its_work_as_salvage(service: Service, remotes: Path) -> None:
    remote, task = make_remote(remotes, unique("fails")), unique("T")
    agent = service.spawn(remote, "echo half > half.txt; exit 3", task)
    end = service.wait(agent)
    assert (end["status"], end["reason"]) == ("failed", "agent_error"), end
    assert "exit status 3" in end["error"]
    assert set(branches(remote)) == {"main"}
    service.wait_phase(agent, None)
    cleanup = next(event for event in service.task_events(task) if event["type"] == "agent.cleanup")
    assert cleanup["data"]["salvage"] == f"refs/salvage/{agent}"
    status, diff = service.call("GET", f"/agents/{agent}/diff")
    assert status == 200
    assert "+half" in diff
    assert not service.agent_directories()


def test_failed_attempt_is_retried_and_lands(service: Service, remotes: Path) -> None:
    remote, task = make_remote(remotes, unique("retry")), unique("T")
    script = 'test "$ORCHESTRATOR_ATTEMPT" = 2 || exit 7; echo "$ORCHESTRATOR_ATTEMPT" > attempt.txt'
    first = service.spawn(remote, script, task, options={"maxRetries": 2})
    end = service.wait(first)
    assert (end["status"], end["reason"]) == ("failed", "agent_error")
    second = service.wait(end["nextAgentId"])
    assert (second["status"], second["attempt"]) == ("completed", 2), second
    assert git("show", f"agent/{task}:attempt.txt", cwd=remote) == "2\n"
    assert service.call("GET", f"/tasks/{task}")[1]["status"] == "completed"


def test_rejected_candidate_gets_the_reasons_and_lands_at_its_second_turn(
    service: Service, remotes: Path
) -> None:
    remote, task = make_remote(remotes, unique("gated"), GATED), unique("T")
    script = (
        'if [ "$ORCHESTRATOR_TURN" = 1 ]; then echo -1 > value; else grep -q "not ok 1" && echo 7 > value; fi'
    )
    agent = service.spawn(remote, script, task, gateProfile="minimal", gates=None)
    end = service.wait(agent)
    assert (end["status"], end["reason"]) == ("completed", "done"), end
    assert [verdict["approved"] for verdict in end["gates"]] == [False, True]
    assert end["gates"][1]["tests"] == 1
    assert git("show", f"agent/{task}:value", cwd=remote) == "7\n"


def test_three_rejections_end_the_agent_and_the_remote_never_sees_it(service: Service, remotes: Path) -> None:
    remote, task = make_remote(remotes, unique("refused"), GATED), unique("T")
    agent = service.spawn(remote, "echo -$ORCHESTRATOR_TURN > value", task, gateProfile="minimal", gates=None)
    end = service.wait(agent)
    assert (end["status"], end["reason"]) == ("failed", "gate_rejected"), end
    assert [verdict["approved"] for verdict in end["gates"]] == [False, False, False]
    assert set(branches(remote)) == {"main"}
    assert git("cat-file", "--batch-all-objects", "--batch-check", cwd=remote).count(" commit ") == 1


def test_candidate_cannot_change_the_gate_that_judges_it(service: Service, remotes: Path) -> None:
    remote, task = make_remote(remotes, unique("own-gate"), GATED), unique("T")
    script = "echo -1 > value; printf '[gates.tests]\\ncommand = [\"true\"]\\n' > orchestrator.toml"
    end = service.wait(service.spawn(remote, script, task, gateProfile="minimal", gates=None))
    assert (end["status"], end["reason"]) == ("failed", "gate_rejected"), end


def test_ten_agents_on_one_repository_land_ten_branches(service: Service, remotes: Path) -> None:
    remote, name = make_remote(remotes, unique("ten")), unique("ten")
    agents = [service.spawn(remote, f"echo {n} > file{n}.txt", f"{name}-{n}") for n in range(10)]
    for agent in agents:
        end = service.wait(agent)
        assert (end["status"], end["reason"]) == ("completed", "done"), end
    landed = branches(remote)
    for n in range(10):
        assert git("show", f"agent/{name}-{n}:file{n}.txt", cwd=remote) == f"{n}\n"
    assert len(landed) == 11
    assert not service.agent_directories()


def test_time_out_ends_the_agent_and_its_processes(service: Service, remotes: Path) -> None:
    remote, marker = make_remote(remotes, unique("late")), unique("mark")
    agent = service.spawn(remote, "sleep 1000", options={"timeout": 1, "env": {"MARK": marker}})
    end = service.wait(agent)
    assert (end["status"], end["reason"]) == ("failed", "timeout"), end
    assert not marked(marker)


def test_task_lands_again_over_its_own_branch_but_not_over_a_stranger(
    service: Service, remotes: Path
) -> None:
    remote, task = make_remote(remotes, unique("again")), unique("T")
    assert service.wait(service.spawn(remote, "echo 1 > a", task))["status"] == "completed"
    second = service.wait(service.spawn(remote, "echo 2 > a", task))
    assert (second["status"], second["attempt"]) == ("completed", 2), second
    assert git("show", f"agent/{task}:a", cwd=remote) == "2\n"
    git("update-ref", f"refs/heads/agent/{task}", "main", cwd=remote)
    third = service.wait(service.spawn(remote, "echo 3 > a", task))
    assert (third["status"], third["reason"]) == ("failed", "conflict"), third
    assert branches(remote)[f"agent/{task}"] == branches(remote)["main"]


def test_logs_come_by_line_and_can_be_read_again(service: Service, remotes: Path) -> None:
    remote = make_remote(remotes, unique("logs"))
    agent = service.spawn(remote, "echo one; echo two >&2; printf 'three'")
    service.wait(agent)
    answer = service.http.get(f"/agents/{agent}/logs")
    lines = [line for line in answer.text.splitlines() if line]
    assert answer.status_code == 200
    for word in ("one", "two", "three"):
        assert any(f'"{word}"' in line for line in lines), lines
