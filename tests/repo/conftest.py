"""What this room's tests share: the backends that work here, and a stage on each."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.base import Backend, SandboxError, User
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.trusted import ProcessBackend
from tests.repo.stage import Stage


@pytest.fixture(scope="session")
def bubblewrap(ordinary_user: User) -> BubblewrapBackend:
    """Return the bubblewrap backend, or skip with its reason."""
    try:
        return BubblewrapBackend(ordinary_user)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def stage(reachable_path: Path, bubblewrap: BubblewrapBackend) -> Stage:
    """Return a stage on layered sandboxes."""
    return Stage(reachable_path, bubblewrap)


@pytest.fixture(params=["layers", "copies", "process"])
def any_stage(
    request: pytest.FixtureRequest, reachable_path: Path, bubblewrap: BubblewrapBackend, ordinary_user: User
) -> Stage:
    """Return a stage on each kind of workspace in turn."""
    backends: dict[str, Backend] = {
        "layers": bubblewrap,
        "copies": BubblewrapBackend(ordinary_user, layered=False),
        "process": ProcessBackend(ordinary_user),
    }
    return Stage(reachable_path, backends[request.param])
