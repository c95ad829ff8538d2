"""The door to the model against those who mean harm: agents behind it, and providers before it."""

from __future__ import annotations

import json

import pytest

from sandbox.base import Backend, User
from sandbox.trusted import ProcessBackend
from tests.agents.conftest import Log, OpenSession
from tests.agents.doors import CannedApi, Doors, asked


@pytest.fixture
def backend(ordinary_user: User) -> Backend:
    """Return one backend: nothing here runs in it."""
    return ProcessBackend(ordinary_user)


@pytest.fixture
def doors(open_session: OpenSession, log: Log) -> Doors:
    """Return what opens doors."""
    return Doors(open_session, log)


# --- headers -----------------------------------------------------------------------------------------------


async def test_headers_that_are_no_ascii_end_nothing_but_are_passed_on(doors: Doors) -> None:
    api = CannedApi(b"HTTP/1.1 400 no\r\nrequest-id: \xe9\r\ncontent-length: 2\r\n\r\nno")
    body = json.dumps(asked("x")).encode()
    head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nuser-agent: caf\xe9\r\nconnection: close\r\n"
    async with api.open(), doors.open(api.url) as at, at.knock() as knocker:
        await knocker.say(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        answer = await knocker.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"request-id: \xe9" in answer
