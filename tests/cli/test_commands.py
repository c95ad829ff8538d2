"""The commands, each against a real supervisor: what they print, what they answer, how they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.cli.conftest import Operator
from tests.kit.remote import git, make_remote
from tests.kit.service import Service


@pytest.fixture(scope="module")
def remote(service: Service) -> Path:
    """Return a remote that the tests of this module share; each lands on branches of its own."""
    return make_remote(service.remotes, "cli")


@pytest.fixture
def task() -> str:
    """Return a task id that no other test uses."""
    return f"cli-{uuid.uuid4().hex[:8]}"


def flags(remote: Path, task: str) -> list[str]:
    return ["--task", task, "--repository", str(remote), "--max-retries", "0", "--gate-profile", "minimal"]


def ungated(remote: Path, task: str) -> dict[str, object]:
    return {
        "taskId": task,
        "gateProfile": "custom",
        "gates": [],
        "context": {"repository": f"file://{remote}"},
        "options": {"maxRetries": 0},
    }


@pytest.fixture
def file(tmp_path: Path, remote: Path, task: str) -> str:
    """Return a file with a task without gates."""
    path = tmp_path / "task.json"
    path.write_text(json.dumps(ungated(remote, task)))
    return str(path)


def spawn(operator: Operator, file: str, script: str, *more: str) -> str:
    """Spawn an agent and return its id."""
    answer = operator.json("spawn", "-f", file, *more, "--", "sh", "-c", script)
    return str(answer["agentId"])


def test_spawn_from_a_file_lands_and_wait_says_so(
    operator: Operator, remote: Path, file: str, task: str
) -> None:
    final = operator.json("spawn", "-f", file, "--wait", "--", "sh", "-c", "echo x > x")
    assert (final["status"], final["reason"], final["taskId"]) == ("completed", "done", task)
    assert git("show", f"agent/{task}:x", cwd=remote) == "x\n"


def test_spawn_reads_standard_input(operator: Operator, remote: Path, task: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "spawn", "-f", "-", "--json", "--wait", "--", "true"],
        env=operator.service.env,
        input=json.dumps(ungated(remote, task)),
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert json.loads(done.stdout)["reason"] == "no_changes"


def test_wait_on_an_agent_that_fails_is_1_and_shows_how(operator: Operator, file: str) -> None:
    done = operator.run("spawn", "-f", file, "--wait", "--", "sh", "-c", "exit 7")
    assert done.returncode == 1
    assert "agent_error" in done.stdout
    assert "turn 1 ended" in done.stdout


def test_wait_goes_on_with_the_automatic_retry(operator: Operator, file: str, task: str) -> None:
    script = '[ "$ORCHESTRATOR_ATTEMPT" = 2 ]'
    final = operator.json("spawn", "-f", file, "--max-retries", "1", "--wait", "--", "sh", "-c", script)
    assert (final["attempt"], final["status"]) == (2, "completed")
    assert len(operator.json("list", "--task", task)["agents"]) == 2


def test_follow_prints_what_the_agent_writes_escaped(operator: Operator, file: str) -> None:
    script = r"printf 'hi \033]52;c;eA==\007 [bold]x[/bold]\n'; printf 'oops\n' >&2"
    done = operator.run("spawn", "-f", file, "--follow", "--", "sh", "-c", script)
    assert done.returncode == 0
    assert r"hi \x1b]52;c;eA==\x07 [bold]x[/bold]" in done.stdout
    assert "stderr" in done.stdout
    assert "\x1b" not in done.stdout
    assert "completed" in done.stdout


def test_bad_request_is_1_and_names_the_field(operator: Operator, remote: Path) -> None:
    problem = operator.problem("spawn", *flags(remote, "a/b"), "--", "true")
    assert problem["status"] == 422
    assert any("taskId" in trouble["field"] for trouble in problem["errors"])
    done = operator.run("spawn", *flags(remote, "a/b"), "--", "true")
    assert (done.returncode, done.stdout) == (1, "")
    assert "taskId" in done.stderr
    assert done.stderr.count("\n") == 1


def test_status_and_list_show_the_agent(operator: Operator, file: str, task: str) -> None:
    agent = operator.json("spawn", "-f", file, "--wait", "--", "sh", "-c", "echo y > y")["agentId"]
    status = operator.json("status", agent)
    assert (status["agentId"], status["status"]) == (agent, "completed")
    shown = operator.run("status", agent).stdout
    assert f"agent            {agent}" in shown
    assert f"agent/{task}" in shown
    listed = operator.json("list", "--task", task, "--status", "completed")
    assert [entry["agentId"] for entry in listed["agents"]] == [agent]
    row = operator.run("list", "--task", task).stdout.splitlines()[1]
    assert row.startswith(f"{agent}  {task}  completed  done")
    assert operator.run("list", "--task", "nobody").stdout == "no agents\n"


def test_list_goes_on_where_it_ended(operator: Operator, file: str) -> None:
    for _ in range(2):
        operator.json("spawn", "-f", file, "--wait", "--", "true")
    first = operator.json("list", "--limit", "1")
    second = operator.json("list", "--limit", "1", "--after", first["next"])
    assert first["agents"][0]["agentId"] != second["agents"][0]["agentId"]
    assert f"--after {first['next']}" in operator.run("list", "--limit", "1").stdout


def test_logs_and_events_are_lines_of_json(operator: Operator, file: str, task: str) -> None:
    agent = operator.json("spawn", "-f", file, "--wait", "--", "sh", "-c", "echo out; echo err >&2")[
        "agentId"
    ]
    for more in ((), ("-f",)):
        done = operator.run("logs", agent, "--json", *more)
        lines = {entry["stream"]: entry["content"] for entry in map(json.loads, done.stdout.splitlines())}
        assert (lines["stdout"], lines["stderr"]) == ("out", "err")
    only = operator.run("logs", agent, "--json", "--stream", "stderr")
    assert [json.loads(line)["content"] for line in only.stdout.splitlines()] == ["err"]
    events = [
        json.loads(line) for line in operator.run("events", "--json", "--task", task).stdout.splitlines()
    ]
    assert events[0]["type"] == "task.submitted"
    assert {"agent.running", "agent.completed"} <= {event["type"] for event in events}
    typed = operator.run("events", "--json", "--agent", agent, "--type", "agent.completed").stdout
    assert json.loads(typed)["agentId"] == agent
    after = events[-2]["seq"]
    rest = operator.run("events", "--task", task, "--after", str(after)).stdout
    assert rest.count("\n") == 1


def test_followed_events_end_with_130_on_interrupt(operator: Operator, file: str) -> None:
    with operator.open("events", "-f", "--after", "0", "--json") as command:
        assert command.stdout
        assert json.loads(command.stdout.readline())["seq"] == 1
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=20)
    assert (command.returncode, err) == (130, "")


def test_reader_that_leaves_is_no_complaint(operator: Operator, file: str) -> None:
    agent = operator.json("spawn", "-f", file, "--wait", "--", "sh", "-c", "seq 20000")["agentId"]
    with operator.open("logs", agent) as command:
        assert command.stdout
        assert command.stderr
        command.stdout.readline()
        command.stdout.close()
        assert command.stderr.read() == ""
    assert command.returncode == 141


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_output_that_cannot_be_written_is_one_line_or_one_problem(
    operator: Operator, redirection: str
) -> None:
    for words in ("list", "events", "list --json", "events --json"):
        done = subprocess.run(
            ["sh", "-c", f'"$0" -m orchestrator {words} {redirection}', sys.executable],
            env=operator.service.env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        if "--json" in words:
            assert json.loads(done.stderr)["code"] == "output_failed"


def test_kill_prints_the_proof(operator: Operator, file: str) -> None:
    agent = spawn(operator, file, "sleep 1000 & sleep 1000")
    operator.service.wait_phase(agent, "working")
    done = operator.run("kill", agent)
    assert done.returncode == 0
    assert f"{agent} killed: " in done.stdout
    assert "0 remaining" in done.stdout
    assert operator.problem("kill", agent)["code"] == "already_ended"


def test_kill_answers_the_proof_as_json(operator: Operator, file: str) -> None:
    agent = spawn(operator, file, "sleep 1000")
    operator.service.wait_phase(agent, "working")
    answer = operator.json("kill", agent)
    assert (answer["agentId"], answer["status"], answer["remaining"]) == (agent, "killed", 0)
    assert answer["killedProcesses"] >= 1


def test_unknown_agent_is_1_everywhere(operator: Operator) -> None:
    for command in ("status", "kill", "retry", "diff", "logs"):
        problem = operator.problem(command, "no-such-agent")
        assert (problem["code"], problem["status"]) == ("agent_not_found", 404), command
    done = operator.run("kill", "no-such-agent")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_kill_all_ends_every_agent(operator: Operator, file: str) -> None:
    assert operator.json("kill-all")["total"] == 0
    agent = spawn(operator, file, "sleep 1000")
    operator.service.wait_phase(agent, "working")
    done = operator.run("kill-all")
    assert done.returncode == 0
    assert "1 killed, 0 failed" in done.stdout
    assert operator.service.status(agent)["status"] == "killed"


def test_freeze_and_thaw_say_how_the_whole_stands(operator: Operator, file: str, task: str) -> None:
    agent = spawn(operator, file, "sleep 1000")
    operator.service.wait_phase(agent, "working")
    done = operator.run("freeze")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("frozen: 1 agent and ")
    assert "stand still, nothing is admitted" in done.stdout
    assert operator.json("freeze")["frozen"] is True
    problem = operator.problem("spawn", "-f", file, "--task", f"{task}-2", "--", "true")
    assert (problem["code"], problem["status"]) == ("frozen", 503)
    assert operator.json("thaw") | {"elapsedMs": 0, "processes": 0} == {
        "frozen": False, "draining": False, "agents": 1, "processes": 0, "starting": 0, "elapsedMs": 0,
    }  # fmt: skip
    assert operator.run("thaw").stdout == "open: work is admitted, 1 agent at work\n"
    assert operator.json("kill-all", "--freeze")["killed"] == 1
    assert operator.json("freeze")["frozen"] is True
    assert operator.json("thaw")["frozen"] is False


def test_drain_admits_nothing_until_a_thaw(operator: Operator, file: str) -> None:
    assert operator.run("drain").stdout == "draining: nothing is admitted, 0 agents to end\n"
    assert operator.problem("spawn", "-f", file, "--", "true")["code"] == "draining"
    assert operator.json("drain")["draining"] is True
    assert operator.json("thaw")["draining"] is False


def test_retry_starts_another_attempt(operator: Operator, file: str, task: str) -> None:
    first = operator.json("spawn", "-f", file, "--wait", "--", "sh", "-c", "exit 1", status=1)["agentId"]
    again = operator.json("retry", first)
    assert again["taskId"] == task
    assert operator.service.wait(again["agentId"])["attempt"] == 2


def test_diff_can_be_read_and_applied(operator: Operator, remote: Path, file: str, tmp_path: Path) -> None:
    script = r"printf 'carriage\r\nescape \033[31m\n' > odd.txt"
    agent = operator.json("spawn", "-f", file, "--wait", "--", "sh", "-c", script)["agentId"]
    done = operator.run("diff", agent)
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert r"+carriage\x0d" in shown
    assert r"+escape \x1b[31m" in shown
    assert "\x1b" not in shown
    patch = operator.json("diff", agent)["diff"]
    git("clone", "-q", str(remote), str(tmp_path / "clone"))
    raw = subprocess.run(
        [sys.executable, "-m", "orchestrator", "diff", "--raw", agent],
        env=operator.service.env,
        capture_output=True,
        timeout=50,
        check=True,
    ).stdout
    assert raw.decode() == patch
    (tmp_path / "patch").write_bytes(raw)
    git("apply", "--whitespace=nowarn", str(tmp_path / "patch"), cwd=tmp_path / "clone")
    assert (tmp_path / "clone" / "odd.txt").read_bytes() == b"carriage\r\nescape \x1b[31m\n"


def test_queue_is_set_by_key_and_value(operator: Operator) -> None:
    before = operator.json("queue", "settings")
    assert operator.json("queue", "settings", "max_concurrent", "4") == {**before, "max_concurrent": 4}
    assert operator.problem("queue", "settings", "max_concurrent", "none")["code"] == "invalid"
    assert operator.problem("queue", "settings", "paused", status=2)["code"] == "usage"
    operator.json("queue", "settings", "max_concurrent", str(before["max_concurrent"]))


def test_queue_can_be_paused_and_resumed(operator: Operator) -> None:
    assert operator.json("queue", "stats")["paused"] is False
    assert operator.run("queue", "pause").stdout == "the queue is paused\n"
    try:
        assert operator.json("queue", "stats")["paused"] is True
    finally:
        assert operator.json("queue", "resume") == {"paused": False}
    shown = operator.run("queue", "stats").stdout
    assert "paused       no" in shown


def test_over_tcp_the_token_opens_the_door(operator: Operator, reachable_path: Path) -> None:
    url = f"http://127.0.0.1:{operator.service.env['ORCHESTRATOR_PORT']}"
    token = reachable_path / "token"
    token.write_text(operator.service.env["ORCHESTRATOR_API_KEY"] + "\n")
    assert operator.json("queue", "stats", "--url", url)["paused"] is False
    elsewhere = {"ORCHESTRATOR_HOME": str(reachable_path / "elsewhere")}
    assert operator.run("list", **elsewhere).returncode == 0
    bare = {**elsewhere, "ORCHESTRATOR_API_KEY": ""}
    problem = operator.problem("list", **bare)
    assert problem["status"] == 401
    assert "--token-file" in problem["fix"]
    assert operator.run("list", "--token-file", str(token), **bare).returncode == 0
    assert operator.run("list", "--home", str(operator.service.home), **bare).returncode == 0


def test_doctor_finds_the_supervisor_healthy(operator: Operator) -> None:
    found = {check["name"]: check for check in operator.json("doctor")["checks"]}
    assert found["supervisor"]["state"] == "ok"
    assert found["supervisor"]["detail"].startswith("healthy, version ")


def test_json_queue_words_stand_before_the_subcommand_too(operator: Operator) -> None:
    done = operator.run("queue", "stats", "--json")
    assert {"pending", "active", "paused", "concurrency"} <= set(json.loads(done.stdout))


def test_an_agent_is_told_something_and_its_transcript_is_printed_escaped(
    operator: Operator, file: str
) -> None:
    operator.json("queue", "pause")
    try:
        agent = spawn(operator, file, r"printf 'hi \033]52;c;eA==\007\n'; cat")
        assert operator.json("message", agent, "mind the gap")["message"] == 1
        assert "message 2 waits" in operator.run("message", agent, "and the step").stdout
        assert operator.problem("message", agent, "")["status"] == 422
    finally:
        operator.json("queue", "resume")
    assert operator.service.wait(agent)["usage"]["turns"] == 2
    printed = operator.run("transcript", agent).stdout
    assert printed.count("turn 1, prompt 1: exit status 0") == 2
    assert "    hi \n" in printed
    assert "    mind the gap" in printed
    assert "\x1b" not in printed
    lines = operator.run("transcript", agent, "--json").stdout.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["turn", "turn"]
    told = operator.run("events", "--agent", agent, "--type", "agent.message").stdout
    assert "mind the gap" in told
    assert "message 2" in told


@pytest.mark.parametrize("role", ["starter", "auditor"])
def test_prompt_of_a_role_is_printed_without_a_supervisor(tmp_path: Path, role: str) -> None:
    (tmp_path / "shell.md").write_text("Quote.\u202e\n")
    file = tmp_path / "task.json"
    context = {
        "repository": "https://example.org/r.git",
        "skills": ["shell"],
        "instructions": "{{ x }}\x1b[2J",
    }
    file.write_text(json.dumps({"taskId": "T-1", "context": context}))
    env = {"PATH": "/usr/bin:/bin", "ORCHESTRATOR_HOME": str(tmp_path / "none"), "SKILLS_DIR": str(tmp_path)}

    def printed(*more: str) -> str:
        command = [sys.executable, "-m", "orchestrator", "prompt", role, "--task", str(file), *more]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=50)
        assert done.stderr == ""
        return done.stdout

    text = printed()
    for part in (
        f"You are the {role} for this task.",
        "{{ x }}",
        "Quote.\\u202e",
        "/orchestrator/result/result.json",
    ):
        assert part in text
    assert "\x1b" not in text
    assert json.loads(printed("--json")) == {"role": role, "taskId": "T-1", "prompt": text}
    assert not (tmp_path / "none").exists()


def test_prompt_of_a_task_that_is_none_is_refused_by_its_field(tmp_path: Path) -> None:
    file = tmp_path / "task.json"
    file.write_text('{"taskId": "a..b", "context": {"repository": "x"}}')
    command = [sys.executable, "-m", "orchestrator", "prompt", "tester", "--task", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("orchestrator: taskId: must not hold `..`")
