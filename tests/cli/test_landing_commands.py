"""What the command line says of work that did not land, and of a supervisor that skips its gates."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Operator
from tests.kit.remote import git, make_remote
from tests.kit.service import Service
from tests.kit.until import until

GATED = {"a": "1\n", "orchestrator.toml": '[gates.tests]\ncommand = ["false"]\n'}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Return a supervisor that skips the quality gates."""
    root = Path(tempfile.mkdtemp(prefix="cli-", dir=os.environ["TMPDIR"]))
    with Service(root, YOLO_MODE="true") as running:
        yield running
    shutil.rmtree(root)


def test_skipped_gates_are_shown_wherever_people_look(operator: Operator) -> None:
    service = operator.service
    remote = make_remote(service.remotes, "yolo", GATED)
    agent = service.spawn(remote, "echo 2 > a", "yolo", gateProfile="minimal", gates=None)
    assert service.wait(agent)["yolo"] is True
    assert service.call("GET", "/health")[1]["yolo"] is True
    assert "YOLO_MODE: quality gates disabled" in operator.run("list").stdout
    assert "its quality gates were skipped" in operator.run("status", agent).stdout
    assert "its gates are off" in operator.run("doctor").stdout
    assert "YOLO_MODE: quality gates disabled" in service.log.read_text()
    assert "Gates: skipped (YOLO)" in git("log", "-1", "--format=%B", "agent/yolo", cwd=remote)


def test_a_protected_branch_is_refused_by_its_field(operator: Operator) -> None:
    service = operator.service
    remote = make_remote(service.remotes, "protected")
    for branch in ("main", "master"):
        body = service.request_body(remote, "true", "no", options={"landing": {"branch": branch}})
        status, answer = service.call("POST", "/agents/spawn", body)
        assert (status, answer["errors"][0]["field"]) == (422, "options.landing.branch")


def test_what_did_not_land_is_listed_shown_applied_and_dropped(operator: Operator) -> None:
    service = operator.service
    assert operator.run("salvage", "list").stdout == "nothing is kept\n"
    remote = make_remote(service.remotes, "kept")
    agent = service.spawn(remote, "echo mine > new.txt; exit 3", "kept")
    service.wait(agent)
    until(
        lambda: "agent.cleanup" in [e["type"] for e in service.task_events("kept")], "it is cleaned up after"
    )
    listed = operator.run("salvage", "list").stdout
    assert agent[:8] in listed
    assert "each goes after 30 days" in listed
    shown = operator.json("salvage", "show", agent)
    assert shown["files"] == [{"path": "new.txt", "additions": 1, "deletions": 0}]
    assert "new.txt" in operator.run("salvage", "show", agent).stdout
    patch = operator.run("salvage", "show", "--raw", agent).stdout
    assert patch == operator.json("salvage", "show", "--patch", agent)["patch"]
    assert patch == operator.run("diff", "--raw", agent).stdout
    assert "+mine" in operator.run("salvage", "show", "--patch", agent).stdout
    dropped = operator.run("salvage", "drop", agent)
    assert dropped.stdout == f"{agent} is kept no more: it was {shown['commit']}\n"
    assert operator.problem("salvage", "drop", agent)["code"] == "no_salvage"
    assert operator.problem("salvage", "show", agent)["code"] == "no_salvage"
