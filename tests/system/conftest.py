"""Supervisors for the tests of the whole, shared by the tests of a module."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.service import Service


@contextmanager
def shared_root() -> Iterator[Path]:
    """Give a directory that every user may enter, for supervisors that tests share."""
    root = Path(tempfile.mkdtemp(prefix="service-", dir=os.environ["TMPDIR"]))
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Return a running supervisor that the tests of this module share; each uses tasks of its own.

    A module's `SETTINGS`, where it has them, are the supervisor's.
    """
    with shared_root() as root, Service(root, **getattr(request.module, "SETTINGS", {})) as running:
        yield running


@pytest.fixture
def remotes(service: Service) -> Path:
    """Return the directory of the shared supervisor's remotes."""
    return service.remotes


@pytest.fixture
def own_service(reachable_path: Path) -> Iterator[Service]:
    """Return a supervisor of this test alone, not started yet; whatever runs at the end is stopped."""
    own = Service(reachable_path)
    yield own
    if own.process is not None:
        own.stop()
    own.http.close()
