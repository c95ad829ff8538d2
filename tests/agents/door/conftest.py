"""What the tests of the door share: a session on plain processes, and what opens doors for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.base import Backend, User
from sandbox.trusted import ProcessBackend
from tests.agents.conftest import Log, OpenSession
from tests.agents.doors import Doors
from tests.kit.messages_api import ScriptedApi, scripted_api


@pytest.fixture
def backend(ordinary_user: User) -> Backend:
    """Return one backend: nothing here runs in it."""
    return ProcessBackend(ordinary_user)


@pytest.fixture
def doors(open_session: OpenSession, log: Log) -> Doors:
    """Return what opens doors."""
    return Doors(open_session, log)


@pytest.fixture(scope="module")
def shared() -> Iterator[ScriptedApi]:
    """One API for all tests of a module."""
    with scripted_api() as api:
        yield api
