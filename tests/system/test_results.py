"""Agents are told what is known, and what they say they came to is in their status, never in what lands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.kit.remote import branches, git, make_remote
from tests.kit.service import Service
from tests.kit.until import until
from tests.system.test_resume import cut

AUDIT = {"summary": "Looked at all of it.", "findings": []}
WORK = {"summary": "Added f.", "tests": "None.", "decisions": [], "openPoints": []}


def leaving(result: object) -> str:
    """Return the script of an agent that leaves this result."""
    return f"printf %s '{json.dumps(result)}' > $ORCHESTRATOR_RESULT_FILE;"


def prompts(service: Service, task: str) -> list[int]:
    """Return the numbers of the prompts that were answered."""
    phases = [event["data"] for event in service.task_events(task) if event["type"] == "agent.phase"]
    return [data["answered"] for data in phases if "answered" in data]


def lines(service: Service, agent: str, stream: str) -> list[str]:
    """Return what is in the agent's log."""
    _, text = service.call("GET", f"/agents/{agent}/logs?stream={stream}")
    rows = text if isinstance(text, list) else [text] if isinstance(text, dict) else []
    return [row["content"] for row in rows]


def test_result_is_in_the_status_and_the_journal_and_does_not_land(service: Service) -> None:
    remote = make_remote(service.remotes)
    agent = service.spawn(remote, leaving(WORK) + "echo 1 > f", "work")
    end = service.wait(agent)
    assert (end["status"], end["result"]) == ("completed", WORK)
    assert git("diff", "--name-only", "agent/work^", "agent/work", cwd=remote).split() == ["f"]
    events = [e["data"] for e in service.task_events("work") if e["data"].get("result")]
    assert [(data["phase"], data["result"]) for data in events] == [("checking", WORK)]


def test_result_may_end_the_last_message(service: Service) -> None:
    remote = make_remote(service.remotes, "said")
    said = f"Done.\n\n```json\n{json.dumps(AUDIT)}\n```"
    agent = service.spawn(remote, f"printf '%s\\n' '{said}'", "said", agentType="auditor")
    end = service.wait(agent)
    assert (end["status"], end["reason"], end["result"]) == ("completed", "no_changes", AUDIT)
    assert prompts(service, "said") == [1]


def test_auditor_without_a_result_is_told_once_and_then_heard(service: Service) -> None:
    remote = make_remote(service.remotes, "told")
    script = (
        '[ "$ORCHESTRATOR_TURN" = 1 ] && echo "{}" > $ORCHESTRATOR_RESULT_FILE && exit;'
        'ls $ORCHESTRATOR_RESULT_FILE && exit 9; grep "summary: Field required" $ORCHESTRATOR_PROMPT_FILE && '
    ) + leaving(AUDIT)
    agent = service.spawn(remote, script, "told", agentType="auditor")
    end = service.wait(agent)
    assert (end["status"], end["result"]) == ("completed", AUDIT), end
    assert prompts(service, "told") == [1, 2]


def test_starter_that_never_gives_a_plan_ends_without_one_and_the_log_says_why(service: Service) -> None:
    remote = make_remote(service.remotes, "never")
    agent = service.spawn(remote, "ln -s /etc/passwd $ORCHESTRATOR_RESULT_FILE", "never", agentType="starter")
    end = service.wait(agent)
    assert (end["status"], end["reason"], end["result"]) == ("completed", "no_changes", None)
    assert prompts(service, "never") == [1, 2]
    [line] = lines(service, agent, "system")
    assert line.startswith("the agent gave no result that counts: result.json cannot be read")
    assert "agent/never" not in branches(remote)


def test_malformed_result_of_a_worker_is_a_line_in_its_log(service: Service) -> None:
    remote = make_remote(service.remotes, "odd")
    agent = service.spawn(remote, "mkfifo $ORCHESTRATOR_RESULT_FILE; echo 1 > f", "odd")
    end = service.wait(agent)
    assert (end["status"], end["reason"], end["result"]) == ("completed", "done", None)
    assert lines(service, agent, "system") == ["the agent's result is left out: result.json is no plain file"]


@pytest.mark.parametrize("how", ["stop", "crash"])
def test_result_of_a_turn_that_was_finished_outlives_the_supervisor(own_service: Service, how: str) -> None:
    service = own_service
    service.start()
    gate = '[gates.tests]\ncommand = ["sh", "-c", "sleep 2; grep good f"]\n'
    remote = make_remote(service.remotes, files={"f": "bad\n", "orchestrator.toml": gate})
    more: dict[str, Any] = {"gateProfile": "minimal", "gates": None}
    agent = service.spawn(remote, leaving(WORK) + "echo good > f", "kept", **more)
    service.wait_phase(agent, "checking")
    cut(service, how)
    service.start()
    end = service.wait(agent)
    assert (end["status"], end["result"]) == ("completed", WORK)


def test_prompt_tells_of_the_repository_and_of_skills_and_stays_after_a_restart(own_service: Service) -> None:
    service = own_service
    skills = service.home.parent / "skills"
    (skills / "shell").mkdir(parents=True)
    (skills / "shell" / "SKILL.md").write_text("Quote every expansion.\n")
    service.env["SKILLS_DIR"] = str(skills)
    service.start()
    files = {
        "Makefile": "test:\n",
        "a.py": "",
        ".claude/skills/notes/SKILL.md": "One line a change. {{ 7 * 7 }}\n```\n",
        "skills/shell.md": "Quote nothing.\n",
    }
    remote = make_remote(service.remotes, files=files)
    script = (
        "cat $ORCHESTRATOR_PROMPT_FILE > prompt$ORCHESTRATOR_RESUMED;"
        '[ "$ORCHESTRATOR_RESUMED" = 1 ] || { touch there; sleep 1000; }'
    )
    context = {"skills": ["shell", "notes", "../../etc/passwd"]}
    agent = service.spawn(remote, script, "told", context=context)
    service.wait_phase(agent, "working")
    rooms = service.home / "workspaces"
    until(lambda: [*rooms.glob("*/upper/there"), *rooms.glob("*/tree/there")], "the prompt is kept")
    service.kill9()
    (skills / "shell" / "SKILL.md").write_text("Something else.\n")
    service.start()
    assert service.wait(agent)["status"] == "completed"
    first, second = (git("show", f"agent/told:prompt{n}", cwd=remote) for n in ("", "1"))
    assert first == second
    for part in (
        "Python 1",
        "`Makefile`",
        "Quote every expansion.",
        "One line a change. {{ 7 * 7 }}\n```\n````\n",
        "`../../etc/passwd`",
    ):
        assert part in first
    assert "Quote nothing." not in first
    assert "root:" not in first
