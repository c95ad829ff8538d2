"""A provider that is not there: told in an agent's status and in the log, and waited for within bounds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.claude_code import claude_binary
from tests.kit.remote import make_remote
from tests.kit.service import Service
from tests.system.conftest import shared_root

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

PATIENCE_S = 3
WHY = "the provider cannot be reached (ANTHROPIC_BASE_URL): no connection to 127.0.0.1:1: Connection refused"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Return a running supervisor whose provider is not there."""
    claude_binary()
    settings = {"CLAUDE_API_KEY": "k", "ANTHROPIC_BASE_URL": "http://127.0.0.1:1"}
    patience = {"PROVIDER_PATIENCE_SECONDS": str(PATIENCE_S), "CLAUDE_MODEL": "claude-sonnet-5-5"}
    with shared_root() as root, Service(root, **settings, **patience) as own:
        yield own


@pytest.mark.parametrize("runtime", ["claude", "claude-code"])
def test_a_dead_provider_is_one_line_at_once_and_is_not_waited_for_for_ever(
    service: Service, runtime: str
) -> None:
    remote = make_remote(service.remotes, runtime)
    body = service.request_body(remote, "", runtime, options={"runtime": runtime, "maxRetries": 1})
    del body["options"]["command"]
    status, answer = service.call("POST", "/agents/spawn", body)
    assert status == 201, answer
    agent = answer["agentId"]
    waits = service.wait_phase(agent, "parked")
    assert waits["parked"]["reason"] == "network"
    assert waits["parked"]["message"] == f"claude-sonnet-5-5: {WHY}"
    assert WHY in service.log.read_text()
    end = service.wait(agent)
    assert (end["status"], end["reason"]) == ("failed", "provider_unavailable"), end
    assert end["error"].endswith(f"{WHY}; it was waited for {PATIENCE_S} s (PROVIDER_PATIENCE_SECONDS)")
    assert end["nextAgentId"] is not None
    service.call("DELETE", f"/tasks/{runtime}")
