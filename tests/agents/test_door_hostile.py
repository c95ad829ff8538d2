"""The door to the model against those who mean harm: agents behind it, and providers before it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from orchestrator.agents.asked import Refused, check_model
from orchestrator.agents.provider import MAX_LINES, Provider
from orchestrator.errors import ProviderRefused
from sandbox.base import Backend, User
from sandbox.trusted import ProcessBackend
from tests.agents.conftest import Log, OpenSession
from tests.agents.doors import CannedApi, Doors, asked
from tests.kit.messages_api import ScriptedApi, script, scripted_api


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
    """One API for all."""
    with scripted_api() as api:
        yield api


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


async def test_another_way_to_log_in_is_not_passed_on(doors: Doors, shared: ScriptedApi) -> None:
    betas = "context-1m-2025-08-07, oauth-2025-04-20,OAuth-x"
    async with doors.open(shared) as at:
        await at.ask("POST", "/v1/messages", asked(script(agent="betas")), anthropic_beta=betas)
        await at.ask(
            "POST", "/v1/messages", asked(script(agent="no-beta")), anthropic_beta="oauth-2025-04-20"
        )
    (with_one,), (without,) = shared.messages("betas"), shared.messages("no-beta")
    assert with_one.headers["anthropic-beta"] == "context-1m-2025-08-07"
    assert "anthropic-beta" not in without.headers


# --- what one does to others -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_refusal_is_known_to_be_of_a_request_that_a_program_wrote(doors: Doors, status: int) -> None:
    api, meter = CannedApi(b"HTTP/1.1 %d no\r\ncontent-length: 0\r\n\r\n" % status), doors.meter()

    async def work() -> None:
        async with doors.open(api.url, meter=meter) as at:
            await at.ask("POST", "/v1/messages", asked("x"))

    async with api.open():
        with pytest.raises(ProviderRefused):
            await work()
    assert [failure.of_program for failure in meter.failures] == [True]


def test_names_of_models_that_agents_make_up_are_not_remembered() -> None:
    provider = Provider()
    for number in range(1000):
        provider.line(f"claude-sonnet-{number}")
    assert len(provider.lines) <= MAX_LINES
    with pytest.raises(Refused, match="not this agent's"):
        check_model("claude-sonnet-" + "x" * 1000, ["claude-sonnet-*"])
