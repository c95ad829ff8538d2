"""F10: memory, disk or a whole group's memory runs out under an agent or a gate; it ends, and nobody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox.spawn import AGENTS_OOM_SCORE, OWN_OOM_SCORE
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import branches, make_remote
from tests.kit.service import Service
from tests.kit.until import until

pytestmark = pytest.mark.timeout(240)

END_S = 120.0
MIB = 1024 * 1024
#: Takes more and more memory, a little at a time, and keeps it.
GREEDY = "import time\nheld = []\nwhile True:\n    held.append(b'x' * (4 << 20))\n    time.sleep(0.005)\n"
#: The same with an end, so that a test whose agent is not ended does no harm to its host.
GREEDY_TO = GREEDY.replace("True", "len(held) < 150") + "time.sleep(1000)\n"
ROOT_OF_V1 = Path("/sys/fs/cgroup/memory")


def options(memory_mb: int, **more: object) -> dict[str, Any]:
    """Return options whose program is greedy within a ceiling; a retry would be allowed."""
    command = ["python3", "-c", GREEDY_TO]
    return {"command": command, "resources": {"memoryMb": memory_mb}, "maxRetries": 3, **more}


def still_fine(service: Service, sibling: str, remote: Path) -> None:
    """Assert that the supervisor works, the sibling lives, and nothing landed."""
    assert service.call("GET", "/health/ready")[0] == 200
    assert service.status(sibling)["phase"] == "working"
    assert set(branches(remote)) == {"main"}
    assert service.call("POST", f"/agents/{sibling}/kill")[1]["remaining"] == 0


def test_f10_agent_beyond_its_memory_ends_as_oom_and_nobody_else(service: Service, remotes: Path) -> None:
    remote, mark = make_remote(remotes, fresh_mark("memory")), fresh_mark("memory")
    sibling = service.spawn(remote, "sleep 1000")
    service.wait_phase(sibling, "working")
    agent = service.spawn(remote, "", options=options(96, env={"MARK": mark}))
    end = service.wait(agent, within_s=END_S)
    assert (end["status"], end["reason"]) == ("failed", "oom"), end
    assert "96" in end["error"]
    assert end["nextAgentId"] is None, "the same work meets the same ceiling"
    assert not marked(mark)
    still_fine(service, sibling, remote)


def test_f10_agent_beyond_its_disk_has_exceeded_its_budget(service: Service, remotes: Path) -> None:
    remote = make_remote(remotes, fresh_mark("disk"))
    sibling = service.spawn(remote, "sleep 1000")
    service.wait_phase(sibling, "working")
    script = "for i in 1 2 3 4 5 6; do head -c 4000000 /dev/zero > f$i; done; sleep 1000"
    agent = service.spawn(remote, script, options={"resources": {"diskMb": 16}, "maxRetries": 3})
    end = service.wait(agent, within_s=END_S)
    assert (end["status"], end["reason"]) == ("failed", "budget_exceeded"), end
    assert "MB of disk, and 16 are allowed" in end["error"]
    assert end["nextAgentId"] is None
    still_fine(service, sibling, remote)


def test_f10_gate_beyond_the_memory_is_a_rejection_that_says_so(service: Service, remotes: Path) -> None:
    gate = {
        "greedy.py": GREEDY_TO,
        "orchestrator.toml": '[gates.tests]\ncommand = ["python3", "greedy.py"]\n',
    }
    remote, task = make_remote(remotes, fresh_mark("gate"), gate), fresh_mark("gate")
    sibling = service.spawn(remote, "sleep 1000")
    service.wait_phase(sibling, "working")
    more = {"resources": {"memoryMb": 96}}
    agent = service.spawn(remote, "date > a", task, gateProfile="minimal", gates=None, options=more)

    def rejected() -> list[dict[str, Any]]:
        return [event for event in service.task_events(task) if event["type"] == "gate.rejected"]

    verdict = until(rejected, "the gate is a rejection", END_S)[0]["data"]["verdict"]
    assert "killed" in verdict["message"]
    assert "memory" in verdict["message"]
    service.call("POST", f"/agents/{agent}/kill")
    still_fine(service, sibling, remote)


def test_f10_agents_are_whom_the_kernel_ends_first(service: Service, remotes: Path) -> None:
    remote, mark = make_remote(remotes, fresh_mark("score")), fresh_mark("score")
    script = "sleep 1000 & setsid sleep 1000 & wait"
    agent = service.spawn(remote, script, options={"env": {"MARK": mark}})
    pids = until(lambda: len(found := marked(mark)) >= 3 and found, "all of them run", END_S)
    assert isinstance(pids, list)
    assert service.process is not None
    assert {score(pid) for pid in pids} == {AGENTS_OOM_SCORE}
    assert score(service.process.pid) in {score(os.getpid()), OWN_OOM_SCORE}
    assert service.call("POST", f"/agents/{agent}/kill")[1]["remaining"] == 0


def score(pid: int) -> int:
    """Return how gladly the kernel ends a process."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@contextmanager
def memory_of_one_group(pid: int, limit: int) -> Iterator[Path]:
    """Bound a process and all that it starts by a memory group of cgroup v1; skips where none is ours."""
    own = next(
        (line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), ""
    )
    group = ROOT_OF_V1 / own.partition(":memory:/")[2] / fresh_mark("f10")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"needs root and a memory controller of cgroup v1: {error}")
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(left)
        group.rmdir()


def test_f10_kernel_out_of_memory_ends_the_agent_and_not_the_supervisor(own_service: Service) -> None:
    service = own_service
    service.start()
    assert service.process is not None
    remote = make_remote(service.remotes)
    with memory_of_one_group(service.process.pid, 300 * MIB) as group:
        sibling = service.spawn(remote, "sleep 1000")
        service.wait_phase(sibling, "working")
        command = ["python3", "-c", GREEDY]
        agent = service.spawn(remote, "", options={"command": command, "maxRetries": 0})
        end = service.wait(agent, within_s=END_S)
        assert (end["status"], end["reason"]) == ("failed", "oom"), end
        assert "the host had no more" in end["error"]
        assert int((group / "memory.failcnt").read_text()) > 0
        still_fine(service, sibling, remote)
        assert service.stop() == 0
