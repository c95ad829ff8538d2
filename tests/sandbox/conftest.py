"""What the sandbox tests share: the backends that work here, workspaces, and a run from start to end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.base import Backend, Directory, Layers, SandboxError, Spec, User
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.cgroup import Cgroups
from sandbox.delegation import CgroupsUnavailable, find_delegated
from sandbox.podman import PodmanBackend
from sandbox.trusted import ProcessBackend
from tests.kit.sandboxes import Outcome, Run, run_in


@pytest.fixture(scope="session")
def bubblewrap(ordinary_user: User) -> BubblewrapBackend:
    """Return the bubblewrap backend, or skip with its reason."""
    try:
        return BubblewrapBackend(ordinary_user)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cgroups() -> Iterator[Cgroups]:
    """Return cgroups of our own, or skip with the reason; in the end nothing of them is left."""
    try:
        found = Cgroups(find_delegated(), f"tests-{os.getpid()}", may_move=False)
    except CgroupsUnavailable as error:
        pytest.skip(f"needs root or a cgroup of its own: {error}")
    yield found
    found.close_nowait()
    assert not found.home.exists(), f"cgroups are left: {sorted(found.home.rglob('*/'))}"


@pytest.fixture
def podman(containers: PodmanBackend | str) -> PodmanBackend:
    """Return the podman backend, or skip with its reason."""
    if isinstance(containers, str):
        pytest.skip(containers)
    return containers


KINDS = ("bubblewrap", "process", "podman", "podman-crun")
KINDS += ("bubblewrap+cgroup", "process+cgroup", "podman+cgroup")


# It asks for `containers` by name, so that they are made before a test's surroundings are photographed.
@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, ordinary_user: User, containers: PodmanBackend | str) -> Backend:
    """Return each backend in turn, plain and with cgroups; podman by either runtime."""
    kind, _, more = request.param.partition("+")
    cgroups = request.getfixturevalue("cgroups") if more else None
    if kind == "process":
        return ProcessBackend(ordinary_user, cgroups=cgroups)
    if kind == "bubblewrap":
        plain: Backend = request.getfixturevalue(kind)
        return BubblewrapBackend(ordinary_user, cgroups=cgroups) if more else plain
    podman: PodmanBackend = request.getfixturevalue("podman")
    return beside(podman, "crun" if kind.endswith("crun") else "runc", cgroups)


def beside(podman: PodmanBackend, runtime: str, cgroups: Cgroups | None = None) -> PodmanBackend:
    """Return podman on the same image by a runtime, or skip where that is not here."""
    try:
        return PodmanBackend(podman.user, podman.image, podman.root, runtime=runtime, cgroups=cgroups)
    except SandboxError as error:
        pytest.skip(f"podman does not work here: {error}")


@pytest.fixture(params=["bubblewrap", "podman"])
def isolated(request: pytest.FixtureRequest, containers: PodmanBackend | str) -> Backend:
    """Return each backend that isolates, in turn."""
    found: Backend = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def workspace(reachable_path: Path, ordinary_user: User) -> Directory:
    """Return an empty directory that belongs to the sandbox's user."""
    path = reachable_path / "workspace"
    path.mkdir()
    os.chown(path, ordinary_user.uid, ordinary_user.gid)
    return Directory(path)


@pytest.fixture
def layers(reachable_path: Path, ordinary_user: User) -> Iterator[Layers]:
    """Return empty layers that belong to the sandbox's user."""
    paths = [reachable_path / name for name in ("lower", "upper", "work", "merged")]
    for path in paths:
        path.mkdir()
        os.chown(path, ordinary_user.uid, ordinary_user.gid)
    yield Layers(*paths)
    inner = reachable_path / "work" / "work"
    if inner.exists():
        inner.chmod(0o700)  # the kernel makes it without any permission


@pytest.fixture
def run(backend: Backend, workspace: Directory) -> Run:
    """Return a function that runs a shell script in the backend."""

    async def run_script(script: str, stdin: bytes = b"", **fields: object) -> Outcome:
        spec = dataclasses.replace(Spec("contract", ("sh", "-c", script), workspace), **fields)  # type: ignore[arg-type]
        return await run_in(backend, spec, stdin)

    return run_script


@pytest.fixture
def confined(isolated: Backend, workspace: Directory) -> Run:
    """Return a function that runs a shell script in a backend that isolates."""

    async def run_script(script: str, stdin: bytes = b"", **fields: object) -> Outcome:
        spec = dataclasses.replace(Spec("confined", ("sh", "-c", script), workspace), **fields)  # type: ignore[arg-type]
        return await run_in(isolated, spec, stdin)

    return run_script
