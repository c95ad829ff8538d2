"""The probe offers what it has just seen work, and says what is missing otherwise."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sandbox.base import SandboxUnavailable, User
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.cgroup import Cgroups
from sandbox.layout import SYSTEM_PATH
from sandbox.podman import PodmanBackend
from sandbox.probe import default_user, probe, user_from_name

BWRAP_TOOLS = ("bwrap", "unshare", "setpriv", "mount", "sh")
PODMAN_TOOLS = ("podman", "conmon", "crun", "runc", "catatonit", "newuidmap", "newgidmap")


@pytest.fixture
def tools(reachable_path: Path) -> Path:
    """Return a directory with links to the host's tools, to take some away or put worse ones in."""
    directory = reachable_path / "tools"
    directory.mkdir()
    for tool in (*BWRAP_TOOLS, *PODMAN_TOOLS):
        found = shutil.which(tool, path=SYSTEM_PATH)
        if found is not None:
            (directory / tool).symlink_to(found)
    return directory


def replace(tools: Path, tool: str, script: str) -> None:
    """Put a script in the place of a tool."""
    (tools / tool).unlink(missing_ok=True)
    (tools / tool).write_text(f"#!/bin/sh\n{script}\n")
    (tools / tool).chmod(0o755)


async def test_probe_finds_the_best_backend(bubblewrap: BubblewrapBackend, ordinary_user: User) -> None:
    probed = await probe(user=ordinary_user)
    assert probed.backend.name == "bubblewrap"
    assert probed.backend.namespaced
    assert probed.backend.user == ordinary_user
    assert probed.backend.seen(Path("/host/x"), "/inside") == "/inside"
    assert {"open_files", "tmp_mb", "home_mb"} <= probed.backend.enforced
    assert not probed.backend.enforced & {"memory_mb", "cpus", "disk_mb"}
    assert "trusted" in probed.refusals["process"]
    assert "SANDBOX_IMAGE" in probed.refusals["podman"]


async def test_podman_is_the_best_where_it_has_an_image_and_works(
    podman: PodmanBackend, ordinary_user: User
) -> None:
    probed = await probe(user=ordinary_user, image=podman.image, images=podman.root)
    assert isinstance(probed.backend, PodmanBackend)
    assert probed.backend.image == podman.image
    assert probed.backend.layered
    assert {"pids", "open_files", "tmp_mb", "home_mb"} <= probed.backend.enforced
    assert not probed.backend.enforced & {"memory_mb", "cpus", "disk_mb"}
    assert "podman" not in probed.refusals


async def test_podman_that_does_not_work_leaves_bubblewrap_and_says_why(
    bubblewrap: BubblewrapBackend, ordinary_user: User, tools: Path, reachable_path: Path
) -> None:
    replace(tools, "podman", "echo 'Error: no podman today' >&2; exit 125")
    given = {"user": ordinary_user, "image": "localhost/x", "images": reachable_path / "podman"}
    probed = await probe(**given, tools_path=str(tools))
    assert probed.backend.name == "bubblewrap"
    assert "cannot get the image localhost/x: Error: no podman today" in probed.refusals["podman"]
    with pytest.raises(SandboxUnavailable, match=r"no sandbox works here: podman: .*no podman today"):
        await probe("podman", **given, tools_path=str(tools))


async def test_missing_runtime_is_named(podman: PodmanBackend, ordinary_user: User, tools: Path) -> None:
    for tool in ("crun", "runc"):
        (tools / tool).unlink(missing_ok=True)
    with pytest.raises(SandboxUnavailable, match=r"crun is not installed \(apt install crun\)"):
        await probe(
            "podman", user=ordinary_user, image=podman.image, images=podman.root, tools_path=str(tools)
        )


async def test_trusted_code_runs_as_plain_processes(ordinary_user: User) -> None:
    for preference in ("auto", "process"):
        probed = await probe(preference, user=ordinary_user, trusted=True)
        assert probed.backend.name == "process"
        assert not probed.backend.namespaced
        assert not probed.backend.layered
        assert probed.backend.seen(Path("/host/x"), "/inside") == "/host/x"


@pytest.mark.parametrize(
    ("preference", "said"),
    [("process", "SANDBOX_ENABLED=false"), ("podman", "set SANDBOX_IMAGE"), ("docker", "unknown sandbox")],
)
async def test_backend_that_may_not_be_used_is_refused(
    ordinary_user: User, preference: str, said: str
) -> None:
    with pytest.raises(SandboxUnavailable, match=said):
        await probe(preference, user=ordinary_user)


async def test_missing_bubblewrap_names_the_package(tools: Path, ordinary_user: User) -> None:
    (tools / "bwrap").unlink(missing_ok=True)
    with pytest.raises(SandboxUnavailable, match=r"bwrap is not installed \(apt install bubblewrap\)"):
        await probe(user=ordinary_user, tools_path=str(tools))


async def test_forbidden_user_namespaces_name_the_settings(
    bubblewrap: BubblewrapBackend, tools: Path, ordinary_user: User
) -> None:
    replace(tools, "unshare", "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1")
    with pytest.raises(SandboxUnavailable, match=r"Operation not permitted.*user\.max_user_namespaces"):
        await probe(user=ordinary_user, tools_path=str(tools))


async def test_missing_overlays_leave_plain_directories(
    bubblewrap: BubblewrapBackend, tools: Path, ordinary_user: User
) -> None:
    replace(tools, "mount", "echo 'mount: unknown filesystem type overlay' >&2; exit 32")
    probed = await probe(user=ordinary_user, tools_path=str(tools))
    assert probed.backend.name == "bubblewrap"
    assert not probed.backend.layered
    assert "unknown filesystem type" in probed.refusals["overlay"]


async def test_launch_that_fails_is_not_taken_for_a_ceiling_that_was_held(
    bubblewrap: BubblewrapBackend, tools: Path, ordinary_user: User
) -> None:
    launches = (tools / "launches").absolute()
    launches.touch()
    launches.chmod(0o666)
    # Overlays work, and what is to be refused its processes never starts.
    count = f'echo >>{launches}; [ "$(wc -l <{launches})" -ne 2 ] || exit 1'
    replace(tools, "unshare", f'{count}; exec {shutil.which("unshare", path=SYSTEM_PATH)} "$@"')
    probed = await probe(user=ordinary_user, tools_path=str(tools))
    assert len(launches.read_text()) == 2
    assert "pids" not in probed.backend.enforced
    assert "pids" in probed.backend.watched
    assert "not counted" in probed.refusals["pids"]


async def test_toolchain_that_is_refused_says_so(ordinary_user: User) -> None:
    with pytest.raises(SandboxUnavailable, match="read-only path '/run'"):
        await probe(user=ordinary_user, read_only=(Path("/run"),))


def test_agents_are_never_root() -> None:
    assert default_user().uid != 0
    assert default_user().uid == os.getuid() or default_user().name == "nobody"
    with pytest.raises(SandboxUnavailable, match="uid 0"):
        user_from_name("root")
    with pytest.raises(SandboxUnavailable, match="no user 'nobody-at-all'"):
        user_from_name("nobody-at-all")
    assert user_from_name("nobody").uid != 0


async def test_bubblewrap_goes_without_a_cgroup_that_limits_nothing(cgroups: Cgroups) -> None:
    found = await probe("bubblewrap", instance="probe-no-gain", may_move=False)
    assert ("+cgroup" in found.backend.tier) == bool(cgroups.controllers)
    if not cgroups.controllers:
        assert "would limit nothing" in found.refusals["cgroup"]
        assert found.refusals["memory_mb"]
        assert found.cgroups is None
    else:
        assert found.cgroups is not None
        found.cgroups.close_nowait()
    assert not (cgroups.home.parent / "orchestrator-probe-no-gain").exists()
