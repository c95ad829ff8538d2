"""`orchestrator export`: an agent's whole record in one archive."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.cli.conftest import Operator
from tests.kit.remote import make_remote
from tests.kit.until import until

MEMBERS = [
    "agent.json", "task.json", "gates.json", "change.patch",
    "events.ndjson", "log.ndjson", "transcript.ndjson",
]  # fmt: skip


def test_a_record_is_exported_whole_once_and_the_same_each_time(operator: Operator, tmp_path: Path) -> None:
    service = operator.service
    remote = make_remote(service.remotes, "exported")
    agent = service.spawn(remote, "echo said; echo mine > new.txt", "exported")
    service.wait(agent)
    until(lambda: service.task_events("exported")[-1]["type"] == "agent.cleanup", "it is cleaned up after")

    place = tmp_path / "record.tar.gz"
    told = operator.json("export", agent, "-o", str(place))
    assert told == {"agentId": agent, "file": str(place), "bytes": place.stat().st_size, "members": MEMBERS}
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    with tarfile.open(place) as archive:
        found = {name: archive.extractfile(f"{agent}/{name}").read().decode() for name in MEMBERS}  # type: ignore[union-attr]
    assert json.loads(found["agent.json"])["reason"] == "done"
    assert json.loads(found["task.json"])["spec"]["taskId"] == "exported"
    assert "+mine" in found["change.patch"]
    assert '"said"' in found["log.ndjson"]
    types = [json.loads(line)["type"] for line in found["events.ndjson"].splitlines()]
    assert (types[0], types[-1]) == ("agent.spawning", "agent.cleanup")
    assert json.loads(found["transcript.ndjson"].splitlines()[0])["exitCode"] == 0

    assert operator.problem("export", agent, "-o", str(place))["code"] == "file_exists"
    again = subprocess.run(
        [sys.executable, "-m", "orchestrator", "export", agent, "-o", "-"],
        env=service.env, capture_output=True, timeout=50, check=True,
    )  # fmt: skip
    assert again.stdout == place.read_bytes()
    assert "record.tar.gz: agent.json, " in operator.run("export", agent, "--force", "-o", str(place)).stdout


def test_an_export_that_fails_leaves_nothing_and_what_was_there(operator: Operator, tmp_path: Path) -> None:
    place = tmp_path / "kept.tar.gz"
    place.write_text("mine")
    assert operator.problem("export", "nobody", "--force", "-o", str(place))["code"] == "agent_not_found"
    nowhere = operator.problem("export", "nobody", "-o", str(tmp_path / "no" / "place"))
    assert nowhere["code"] == "output_failed"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
