"""A task from end to end in containers: the real supervisor over rootless podman, seen from outside."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from sandbox.base import User
from sandbox.podman import PodmanBackend
from tests.kit.plane import GATED, SECOND_THOUGHTS
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import branches, count_pushes, git, make_remote, pushes
from tests.kit.service import ENDED, Service
from tests.kit.until import until
from tests.kit.zoo import ZOO, ZOO_PROCESSES

Containers = PodmanBackend | str


@contextmanager
def contained(root: Path, containers: Containers, user: User) -> Iterator[Service]:
    """Hold a supervisor whose agents run in the test image, not started yet; then empty its store."""
    if isinstance(containers, str):
        pytest.skip(containers)
    image = f"docker-archive:{containers.root}/agent.tar"
    service = Service(root, SANDBOX_BACKEND="podman", SANDBOX_IMAGE=image)
    yield service
    if service.process is not None:
        service.stop()
    service.http.close()
    # Its files are subordinate ids', which an ordinary user could not remove.
    trio.run(PodmanBackend(user, image, service.home / "podman").discard_images)


@pytest.fixture(scope="module")
def service(containers: Containers, ordinary_user: User) -> Iterator[Service]:
    """Return a running supervisor over podman that the tests share."""
    root = Path(tempfile.mkdtemp(prefix="podman-service-", dir=os.environ["TMPDIR"]))
    with contained(root, containers, ordinary_user) as running:
        running.start()
        yield running
    shutil.rmtree(root)


@pytest.fixture
def own_service(containers: Containers, ordinary_user: User, reachable_path: Path) -> Iterator[Service]:
    """Return a supervisor over podman of this test alone, not started yet."""
    with contained(reachable_path, containers, ordinary_user) as own:
        yield own


def test_rejected_work_lands_from_a_container_at_the_second_turn(
    service: Service, ordinary_user: User
) -> None:
    remote, task = make_remote(service.remotes, "gated", GATED), fresh_mark("gated")
    script = f"{SECOND_THOUGHTS}; id -u > who; cat /proc/self/uid_map > map; ls /sys | wc -l > sys"
    agent = service.spawn(remote, script, task, gateProfile="minimal", gates=None)
    end = service.wait(agent)
    assert (end["status"], end["reason"], end["usage"]["turns"]) == ("completed", "done", 2), end
    assert branches(remote)[f"agent/{task}"] == end["commit"]
    assert git("show", f"agent/{task}:value", cwd=remote) == "7\n"
    assert git("rev-list", "--count", f"main..agent/{task}", cwd=remote) == "1\n"
    types = [event["type"] for event in service.task_events(task)]
    assert (types.count("gate.rejected"), types.count("gate.passed")) == (1, 1)
    assert git("show", f"agent/{task}:who", cwd=remote) == "1000\n"
    assert git("show", f"agent/{task}:sys", cwd=remote) == "0\n", "it ran in a container"
    maps = [line.split() for line in git("show", f"agent/{task}:map", cwd=remote).splitlines()]
    assert ["1000", str(ordinary_user.uid), "1"] in maps, "and as the agents' user on the host"
    until(lambda: not service.agent_directories(), "no worktree is left")


def test_kill_of_a_crowd_in_a_container_is_proven(service: Service) -> None:
    remote, mark = make_remote(service.remotes, "crowd"), fresh_mark("podman-zoo")
    agent = service.spawn(remote, ZOO, options={"env": {"MARK": mark}})
    service.wait_phase(agent, "working")
    until(lambda: len(marked(mark)) >= ZOO_PROCESSES, "the crowd is there")
    status, killed = service.call("POST", f"/agents/{agent}/kill")
    assert (status, killed["remaining"]) == (200, 0), killed
    assert killed["tier"].startswith("container")
    assert killed["killedProcesses"] >= ZOO_PROCESSES
    assert not marked(mark)
    assert not marked(f"--name={agent}"), "podman and conmon went with it"
    assert set(branches(remote)) == {"main"}
    until(lambda: not service.agent_directories(), "no worktree is left")


def test_sigkill_leaves_no_container_and_the_next_start_resumes(own_service: Service) -> None:
    service, mark = own_service, fresh_mark("podman-crash")
    service.start()
    remote = make_remote(service.remotes)
    count_pushes(remote)
    script = '[ "$ORCHESTRATOR_RESUMED" = 1 ] && echo again > again && exit; setsid sleep 1000 & sleep 1000'
    tasks = [f"crash-{n}" for n in range(3)]
    agents = [service.spawn(remote, script, task, options={"env": {"MARK": mark}}) for task in tasks]
    for agent in agents:
        service.wait_phase(agent, "working")
    service.kill9()
    until(lambda: not marked(mark) and not any(marked(agent) for agent in agents), "nothing is left", 3)
    service.start()
    ends = [service.wait(agent) for agent in agents]
    assert [end["status"] for end in ends] == ["completed"] * 3, ends
    for task in tasks:
        types = [event["type"] for event in service.task_events(task)]
        assert sum(f"agent.{end}" in types for end in ENDED) == 1, types
        assert types.count("agent.completed") == types.count("push.completed") == 1, types
    assert sorted(push.ref for push in pushes(remote)) == [f"refs/heads/agent/{task}" for task in tasks]
    until(lambda: not service.agent_directories(), "no worktree is left")
