"""Budgets, whole: over HTTP they stop an agent exactly there, whichever runtime asks the model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.claude_code import claude_binary
from tests.kit.messages_api import ScriptedApi, script, scripted_api
from tests.kit.processes import fresh_mark
from tests.kit.remote import branches, make_remote
from tests.kit.service import Service
from tests.system.conftest import shared_root

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

MODEL = "claude-sonnet-5-5"
#: At the model's price an answer comes to 0.003 USD.
USAGE = {"usage": {"input_tokens": 1000, "output_tokens": 100}}


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    """Return an API; each test has scripts of its own name."""
    claude_binary()
    with scripted_api() as running:
        yield running


@pytest.fixture(scope="module")
def service(api: ScriptedApi) -> Iterator[Service]:
    """Return a running supervisor that the tests of this module share."""
    settings = {"CLAUDE_API_KEY": "k", "ANTHROPIC_BASE_URL": api.url, "CLAUDE_MODEL": MODEL}
    with shared_root() as root, Service(root, **settings) as own:
        yield own


@pytest.mark.parametrize("runtime", ["claude", "claude-code"])
@pytest.mark.parametrize(
    ("budget", "turns"),
    [({"turns": 3}, 3), ({"costUsd": 0.01}, 4)],
    ids=["turns", "money"],
)
def test_a_budget_stops_exactly_there_and_keeps_the_work(
    service: Service, api: ScriptedApi, runtime: str, budget: dict[str, float], turns: int
) -> None:
    remote = make_remote(service.remotes, fresh_mark("repo"))
    name = fresh_mark(runtime)
    options = {"runtime": runtime, "budget": budget, "maxRetries": 3}
    body = service.request_body(remote, "", name, options=options)
    del body["options"]["command"]
    steps = [{"do": {"run": f"echo {number} >> work"}, **USAGE} for number in range(1, 9)]
    body["context"]["instructions"] = script(*steps, agent=name)
    status, answer = service.call("POST", "/agents/spawn", body)
    assert status == 201, answer
    end = service.wait(agent := answer["agentId"])
    assert (end["status"], end["reason"], end["nextAgentId"]) == ("failed", "budget_exceeded", None), end
    assert "options.budget" in end["error"]
    assert len(api.messages(name)) == turns
    usage = end["usage"]
    assert (usage["turns"], usage["inputTokens"], usage["outputTokens"]) == (turns, 1000 * turns, 100 * turns)
    assert usage["costUsd"] == pytest.approx(0.003 * turns)
    service.wait_phase(agent, None)  # it is tidied up after
    events = service.task_events(name)
    kinds = [event["type"] for event in events]
    (warning,) = [event["data"] for event in events if event["type"] == "budget.warning"]
    assert warning["spent"] >= 0.8 * warning["ceiling"]
    assert kinds.index("budget.warning") < kinds.index("budget.exceeded") < kinds.index("agent.failed")
    assert events[-1]["data"]["salvage"] == f"refs/salvage/{agent}"
    _, diff = service.call("GET", f"/agents/{agent}/diff")
    assert [line for line in diff.splitlines() if line in {"+1", "+2", "+3"}] == ["+1", "+2", "+3"]
    assert branches(remote).keys() == {"main"}
