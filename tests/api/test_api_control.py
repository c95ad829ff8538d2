"""Freeze, thaw and drain over the API: answers, scopes, limits, and what is refused meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.api.access import Principal, Scope
from orchestrator.api.services import Limits
from orchestrator.core import commands as c
from orchestrator.errors import FreezeNotLatched
from tests.kit.error_log import ErrorLog
from tests.kit.served import ScriptedSwitches, Served, serve_api, task


def switches(served: Served) -> ScriptedSwitches:
    """Return the scripted switches behind the API."""
    found = served.services.switches
    assert isinstance(found, ScriptedSwitches)
    return found


async def test_freeze_and_thaw_answer_how_the_whole_stands(served: Served) -> None:
    answer = await served.ask("POST", "/freeze")
    assert (answer.status, answer.json) == (
        200,
        {"frozen": True, "draining": False, "agents": 2, "processes": 17, "starting": 0, "elapsedMs": 2.1},
    )
    assert (await served.ask("GET", "/health")).json["frozen"] is True
    assert (await served.ask("POST", "/freeze")).json["frozen"] is True
    assert (await served.ask("POST", "/thaw")).json["frozen"] is False
    assert (await served.ask("POST", "/thaw")).json["frozen"] is False
    assert (await served.ask("GET", "/health")).json["frozen"] is False
    assert switches(served).turned == [
        *[("freeze", "admin")] * 2,
        *[("thaw", "admin")] * 2,
    ]


@pytest.mark.parametrize(("path", "code"), [("/freeze", "frozen"), ("/drain", "draining")])
async def test_nothing_is_admitted_and_what_was_admitted_is_answered_again(
    served: Served, path: str, code: str
) -> None:
    first = await served.ask("POST", "/agents/spawn", body=task(), Idempotency_Key="once")
    assert (await served.ask("POST", path)).status == 200
    for intake in ("/agents/spawn", "/tasks"):
        answer = await served.ask("POST", intake, body=task("T-2"))
        assert (answer.status, answer.problem()["code"]) == (503, code)
    again = await served.ask("POST", "/agents/spawn", body=task(), Idempotency_Key="once")
    assert (again.status, again.body) == (201, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert (await served.ask("POST", "/thaw")).json["draining"] is False
    assert (await served.ask("POST", "/agents/spawn", body=task("T-2"))).status == 201


async def test_kill_all_freezes_where_it_is_asked_to(served: Served) -> None:
    await served.ask("POST", "/agents/spawn", body=task())
    answer = await served.ask("POST", "/agents/kill-all?freeze=true")
    assert (answer.json["killed"], answer.json["remaining"]) == (1, 0)
    assert served.store.state.control.frozen
    await served.store.submit(c.Thaw())
    assert (await served.ask("POST", "/agents/kill-all?freeze=false")).json["total"] == 0
    assert not served.store.state.control.frozen


async def test_switches_pass_every_rate_limit(tmp_path: Path) -> None:
    async with serve_api(tmp_path, limits=Limits(requests_per_s=0.001, burst=1)) as served:
        assert (await served.ask("GET", "/queue/stats")).status == 200
        assert (await served.ask("GET", "/queue/stats")).status == 429
        for path in ("/freeze", "/thaw", "/drain", "/agents/kill-all"):
            assert (await served.ask("POST", path)).status == 200


async def test_a_freeze_that_is_not_latched_says_so(served: Served, error_log: ErrorLog) -> None:
    switches(served).error = FreezeNotLatched()
    problem = (await served.ask("POST", "/freeze")).problem()
    assert (problem["status"], problem["code"]) == (503, "freeze_not_latched")
    assert problem["detail"].startswith("Every process was stopped, but")
    error_log.take("FreezeNotLatched")


@pytest.mark.parametrize("path", ["/freeze", "/thaw", "/drain"])
async def test_switches_take_no_query_no_get_and_no_lesser_token(served: Served, path: str) -> None:
    assert (await served.ask("POST", f"{path}?now=1")).status == 422
    assert (await served.ask("GET", path)).status == 405
    assert (await served.ask("POST", path, Authorization="")).status == 401
    document = (await served.ask("GET", "/openapi.json")).json
    assert "admin" in str(document["paths"][path]["post"])
    assert not Principal("x", Scope.OPERATE).may(Scope.ADMIN)
    assert switches(served).turned == []
