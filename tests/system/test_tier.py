"""The supervisor says how it kills, and where cgroups are its own, holds each agent in one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.delegation import CgroupsUnavailable, find_delegated, instance_of
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import make_remote
from tests.kit.service import Service
from tests.kit.until import until


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


def test_agents_cgroup_is_gone_with_it_and_with_the_supervisor(own_service: Service) -> None:
    own_service.start()
    home = home_of(own_service)
    agent = own_service.spawn(make_remote(own_service.remotes), "sleep 1000", "tier-2")
    own_service.wait_phase(agent, "working")
    assert labels(home) == {agent}
    _, killed = own_service.call("POST", f"/agents/{agent}/kill")
    assert (killed["remaining"], killed["tier"]) == (0, "pid-namespace+cgroup")
    until(lambda: not labels(home), "no leaf is left")
    assert own_service.stop() == 0
    assert not home.exists()


def test_next_start_removes_the_cgroups_of_a_killed_supervisor(own_service: Service) -> None:
    mark = fresh_mark("tier-crash")
    own_service.start()
    home = home_of(own_service)
    script = '[ "$ORCHESTRATOR_RESUMED" = 1 ] && echo again > again && exit; sleep 1000'
    remote = make_remote(own_service.remotes)
    agent = own_service.spawn(remote, script, "tier-3", options={"env": {"MARK": mark}})
    own_service.wait_phase(agent, "working")
    own_service.kill9()
    assert labels(home) == {agent}
    own_service.start()
    assert own_service.wait(agent)["status"] == "completed"
    until(lambda: not labels(home), "no leaf is left")
    assert not marked(mark)
    assert own_service.stop() == 0
    assert not home.exists()
