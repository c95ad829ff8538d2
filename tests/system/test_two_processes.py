"""An orchestrator whose judge is `orchestrator coordinator`, each a process of its own."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx2
import pytest

from tests.core.test_quality import question
from tests.kit.plane import GATED
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import branches, git, make_remote
from tests.kit.service import STOP_S, Service, free_port
from tests.kit.until import until
from tests.system.conftest import shared_root

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TOKEN = "a-token-between-the-two"


class Judge:
    """One `orchestrator coordinator` beside a supervisor, with its environment."""

    def __init__(self, service: Service, name: str = "judge") -> None:
        self.port = free_port()
        self.env = {
            **service.env,
            "ORCHESTRATOR_HOME": str(service.root / name),
            "COORDINATOR_PORT": str(self.port),
            "COORDINATOR_TOKEN": TOKEN,
        }
        self.env.pop("COORDINATOR_URL")
        self.orchestrator = f"http://127.0.0.1:{service.env['ORCHESTRATOR_PORT']}"
        self.log = service.root / f"{name}.log"
        self.home = service.root / name / "coordinator"
        self.http = httpx2.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            verify=False,
            limits=httpx2.Limits(max_keepalive_connections=0),
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "orchestrator", "coordinator", "--url", self.orchestrator]
            self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)
        until(self.answers, "the coordinator is ready", 30)

    def answers(self) -> bool:
        """Return whether it is there; raises where it has ended."""
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"the coordinator ended: {self.log.read_text()[-3000:]}")
        try:
            return self.http.get("/health").status_code == 200
        except httpx2.TransportError:
            return False

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal and return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(STOP_S)

    def task(self, task_id: str) -> dict[str, Any]:
        """Return how far a task has come that was handed in."""
        return dict(self.http.get(f"/tasks/{task_id}").json())

    def settled(self, task_id: str) -> dict[str, Any]:
        """Wait until a task is dispatched or refused, and return how."""

        def look() -> dict[str, Any] | None:
            told = self.task(task_id)
            return told if told["state"] != "pending" else None

        return until(look, f"{task_id} is settled") or {}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Service, Judge]]:
    """Return a running supervisor and the coordinator that judges for it."""
    with shared_root() as root:
        port = free_port()
        service = Service(root, COORDINATOR_URL=f"http://127.0.0.1:{port}", COORDINATOR_TOKEN=TOKEN)
        judge = Judge(service)
        judge.port, judge.env["COORDINATOR_PORT"] = port, str(port)
        judge.env["MAX_CONCURRENT_AGENTS"] = "1"
        judge.http.base_url = f"http://127.0.0.1:{port}"
        judge.start()
        with service:
            yield service, judge
        assert judge.end() == 0
        judge.http.close()


def test_good_candidate_lands_and_a_bad_one_is_told_why(pair: tuple[Service, Judge]) -> None:
    service, judge = pair
    remote = make_remote(service.remotes, "judged", GATED)
    script = (
        'cat "$ORCHESTRATOR_PROMPT_FILE" > prompt-$ORCHESTRATOR_TURN;'
        ' if [ "$ORCHESTRATOR_TURN" = 1 ]; then echo -1 > value; echo exit 0 > test.sh;'
        " else echo 7 > value; fi"
    )
    agent = service.spawn(remote, script, "TWICE", gateProfile="minimal", gates=None)
    end = service.wait(agent)
    assert (end["status"], end["reason"]) == ("completed", "done"), (end, judge.log.read_text()[-3000:])
    said = service.call("GET", f"/agents/{agent}/gates")[1]["gates"]
    assert [(each["gate"], each["approved"]) for each in said] == [
        ("tests", False),
        ("tests", True),
        ("coordinator", True),
    ]
    assert "not ok 1 - positive" in said[0]["outputTail"]
    assert "gate tests: coordinator: the tests failed" in git("show", "agent/TWICE:prompt-2", cwd=remote)
    assert branches(remote)["agent/TWICE"] == end["commit"]
    assert not list((judge.home / "quarantine").iterdir())
    assert not list((judge.home / "workspaces").iterdir())


def test_judgement_that_nobody_waits_for_ends_with_its_processes_and_frees_its_place(
    pair: tuple[Service, Judge],
) -> None:
    service, judge = pair
    mark = fresh_mark("judged")
    stubborn = f"export MARK={mark}; trap '' TERM; setsid sleep 600 & sleep 600"
    slow = {"a": "a", "orchestrator.toml": f'[gates.tests]\ncommand = "{stubborn}"\n'}
    remote = make_remote(service.remotes, "slow", slow)
    agent = service.spawn(remote, "echo b > a", "SLOW", gateProfile="minimal", gates=None)
    judging = judge.home / "quarantine"
    until(lambda: len(marked(mark)) > 2, "it is being judged")
    assert service.call("POST", f"/agents/{agent}/kill")[0] == 200
    until(lambda: not list(judging.iterdir()), "the judgement has ended")
    assert not marked(mark)
    refusal = judge.http.post("/api/quality/check", json=json.loads(question().body()))
    assert (refusal.status_code, refusal.json()["errors"][0]["field"]) == (422, "base")  # it had its place


def test_coordinators_door_is_shut(pair: tuple[Service, Judge]) -> None:
    _, judge = pair
    assert judge.http.get("/tasks", headers={"Authorization": "Bearer no"}).status_code == 401
    assert judge.http.get("/tasks", headers={"Host": "evil.example.org"}).status_code == 403
    assert judge.http.post("/api/quality/check", json={"taskId": "T"}).status_code == 422
    assert judge.http.get("/agents").status_code == 404
    assert {"tests", "build"} < set(judge.http.get("/health").json()["gates"])


def test_task_is_dispatched_once_through_crashes_and_an_orchestrator_that_is_away(
    pair: tuple[Service, Judge],
) -> None:
    service, _ = pair
    judge = Judge(service, "crashing")
    there, judge.orchestrator = judge.orchestrator, f"http://127.0.0.1:{free_port()}"
    remote = make_remote(service.remotes, "dispatched")
    body = service.request_body(remote, "echo done > done", "HANDED-IN")
    judge.start()
    assert judge.http.post("/tasks", json=body).status_code == 202
    until(lambda: judge.task("HANDED-IN")["tries"], "it was tried")
    told = judge.task("HANDED-IN")
    assert told["state"] == "pending"
    assert "does not answer" in told["error"]
    judge.end(signal.SIGKILL)
    judge.orchestrator = there
    judge.start()
    told = judge.settled("HANDED-IN")
    assert told["state"] == "dispatched"
    assert service.wait(told["agentId"])["status"] == "completed"
    judge.end(signal.SIGKILL)
    with closing(sqlite3.connect(judge.home / "dispatches.db")) as record:
        record.execute("UPDATE dispatches SET state = 'pending', agent_id = NULL")  # it died before it knew
        record.commit()
    judge.start()
    assert judge.settled("HANDED-IN")["agentId"] == told["agentId"]
    attempts = service.call("GET", "/agents?taskId=HANDED-IN")[1]["agents"]
    assert [each["agentId"] for each in attempts] == [told["agentId"]]
    assert judge.http.post("/tasks", json=body).status_code == 200
    assert judge.http.post("/tasks", json={**body, "priority": 9}).status_code == 409
    assert judge.end() == 0


def test_task_that_cannot_work_is_not_dispatched(pair: tuple[Service, Judge]) -> None:
    service, judge = pair
    remote = make_remote(service.remotes, "no-branch")
    body = service.request_body(remote, "true", "NO-BRANCH", context={"branch": "not-there"})
    assert judge.http.post("/tasks", json=body).status_code == 202
    told = judge.settled("NO-BRANCH")
    assert told["state"] == "rejected"
    assert "no branch not-there" in told["error"]
    elsewhere = {**body["context"], "repository": "https://10.0.0.1/r.git"}
    refused = judge.http.post("/tasks", json={**body, "taskId": "X", "context": elsewhere})
    assert refused.status_code == 422
    assert "NO-BRANCH" in [each["taskId"] for each in judge.http.get("/tasks?limit=1").json()["tasks"]]
    assert service.call("GET", "/tasks/NO-BRANCH")[0] == 404
