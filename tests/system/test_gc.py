"""Garbage is told before it is removed, with a supervisor and without one; what is needed stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.kit.remote import branches, make_remote
from tests.kit.service import Service


def litter(service: Service) -> dict[str, Path]:
    """Lay something of each kind about, and return where."""
    [mirror] = (service.home / "mirrors").iterdir()
    made = {
        "quarantine/agent-gone-t": service.home / "quarantine" / "agent-gone-t",
        f"checkouts/{mirror.name}/making-0": service.home / "checkouts" / mirror.name / "making-0",
        f"mirrors/{mirror.name}/objects/pack/tmp_pack_0": mirror / "objects" / "pack" / "tmp_pack_0",
        "scratch/gone.prompt-1.md": service.home / "scratch" / "gone.prompt-1.md",
    }
    for path in made.values():
        if "prompt" in path.name or "pack" in path.name:
            path.write_bytes(b"x" * 4096)
        else:
            path.mkdir()
            (path / "file").write_bytes(b"x" * 4096)
    return made


def gc(service: Service, *flags: str) -> dict[str, Any]:
    """Run the command beside or without the supervisor."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "gc", "--json", *flags],
        env=service.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def used(service: Service) -> str:
    """Bring an agent to work, and return it; its worktree and its checkout are needed."""
    remote = make_remote(service.remotes)
    agent = service.spawn(remote, '[ "$ORCHESTRATOR_RESUMED" = 1 ] || sleep 1000; echo x > x', "needed")
    service.wait_phase(agent, "working")
    return agent


def test_a_supervisor_tells_first_and_removes_then(own_service: Service) -> None:
    service = own_service
    service.start()
    agent = used(service)
    made = litter(service)
    told = gc(service, "--dry-run")
    assert {item["name"] for item in told["items"]} == set(made)
    assert all(item["bytes"] >= 4096 and item["why"] and not item["removed"] for item in told["items"])
    assert all(path.exists() for path in made.values())
    done = gc(service)
    assert {item["name"] for item in done["items"] if item["removed"]} == set(made), done
    assert done["freedBytes"] == done["bytes"] > 0
    assert not any(path.exists() for path in made.values())
    assert gc(service)["items"] == []
    assert service.status(agent)["phase"] == "working"
    assert service.call("POST", f"/agents/{agent}/kill")[0] == 200


def test_without_a_supervisor_what_waits_to_go_on_stays(own_service: Service) -> None:
    service = own_service
    service.start()
    agent = used(service)
    service.kill9()
    expected = {*litter(service), f"scratch/{agent}.prompt-1.md"}
    assert {item["name"] for item in gc(service, "--dry-run")["items"]} == expected
    assert {item["name"] for item in gc(service)["items"] if item["removed"]} == expected
    service.start()
    assert service.wait(agent)["status"] == "completed"
    [start] = [
        event["data"]["worktree"]
        for event in service.task_events("needed")[-20:]
        if event["data"].get("phase") == "starting" and event["data"]["worktree"] == "kept"
    ]
    assert start == "kept"
    assert "agent/needed" in branches(service.remotes / "repo.git")


def test_checkouts_that_nobody_works_on_go(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    assert service.wait(service.spawn(remote, "echo x > x"))["status"] == "completed"
    [item] = gc(service)["items"]
    assert (item["kind"], item["removed"]) == ("checkout", True)
    assert service.wait(service.spawn(remote, "echo y > y"))["status"] == "completed"
