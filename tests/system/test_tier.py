"""The supervisor says how it kills, and where cgroups are its own, holds each agent in one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.delegation import CgroupsUnavailable, find_delegated, instance_of
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import make_remote
from tests.kit.service import Service
from tests.kit.until import until


@pytest.fixture
def held_service(own_service: Service) -> Service:
    """Return a supervisor whose agents a cgroup holds wherever one is to be had: their plain processes."""
    own_service.env["SANDBOX_ENABLED"] = "false"
    return own_service


def home_of(service: Service) -> Path:
    """Return the cgroup of the supervisor's instance; skips where none can be its own."""
    try:
        return find_delegated() / f"orchestrator-{instance_of(service.home)}"
    except CgroupsUnavailable as error:
        pytest.skip(f"needs root or a cgroup of its own: {error}")


def labels(home: Path) -> set[str]:
    """Return whose leaves there are."""
    return {leaf.name.rpartition(".")[0] for leaf in (home / "trees").iterdir() if leaf.is_dir()}


def test_kill_names_its_tier_and_status_what_is_watched(own_service: Service) -> None:
    own_service.start()
    agent = own_service.spawn(make_remote(own_service.remotes), "sleep 1000", "tier-1")
    own_service.wait_phase(agent, "working")
    resources = own_service.status(agent)["resources"]
    assert not set(resources["enforced"]) & set(resources["watched"])
    assert {"memory_mb", "disk_mb"} <= {*resources["enforced"], *resources["watched"]}
    _, one = own_service.call("POST", f"/agents/{agent}/kill")
    _, everything = own_service.call("POST", "/agents/kill-all")
    assert one["tier"] == everything["tier"]
    assert one["tier"].partition("+")[0] in {"pid-namespace", "container", "subreaper"}


def test_agents_cgroup_is_gone_with_it_and_with_the_supervisor(held_service: Service) -> None:
    held_service.start()
    home = home_of(held_service)
    agent = held_service.spawn(make_remote(held_service.remotes), "sleep 1000", "tier-2")
    held_service.wait_phase(agent, "working")
    assert labels(home) == {agent}
    _, killed = held_service.call("POST", f"/agents/{agent}/kill")
    assert (killed["remaining"], killed["tier"]) == (0, "subreaper+cgroup")
    until(lambda: not labels(home), "no leaf is left")
    assert held_service.stop() == 0
    assert not home.exists()


def test_next_start_removes_the_cgroups_of_a_killed_supervisor(held_service: Service) -> None:
    mark = fresh_mark("tier-crash")
    held_service.start()
    home = home_of(held_service)
    script = '[ "$ORCHESTRATOR_RESUMED" = 1 ] && echo again > again && exit; sleep 1000'
    remote = make_remote(held_service.remotes)
    agent = held_service.spawn(remote, script, "tier-3", options={"env": {"MARK": mark}})
    held_service.wait_phase(agent, "working")
    held_service.kill9()
    assert labels(home) == {agent}
    held_service.start()
    assert held_service.wait(agent)["status"] == "completed"
    until(lambda: not labels(home), "no leaf is left")
    assert not marked(mark)
    assert held_service.stop() == 0
    assert not home.exists()
