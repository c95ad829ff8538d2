"""openapi.json is valid and true, and no route is open that should not be."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from orchestrator.api.openapi import document
from orchestrator.api.pages import PAGES
from orchestrator.api.routes import make_routes
from tests.kit.served import Served, task

DOCUMENT: dict[str, Any] = document(make_routes("0.1.0"), "0.1.0")
PUBLIC = {"/health", "/api/health", "/health/ready"}
OPERATIONS = [(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item]


def test_document_is_valid_openapi() -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_every_example_fits_its_schema() -> None:
    count = 0
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            bodies = [operation["requestBody"]] if "requestBody" in operation else []
            for part in [*bodies, *operation["responses"].values()]:
                for content in part.get("content", {}).values():
                    examples = [each["value"] for each in content.get("examples", {}).values()]
                    for example in [*examples, *([content["example"]] if "example" in content else [])]:
                        schema = {**content["schema"], "components": DOCUMENT["components"]}
                        jsonschema.Draft202012Validator(schema).validate(example)
                        count += 1
    assert count > 200


def test_every_operation_documents_its_refusals() -> None:
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            statuses = operation["responses"].keys()
            assert {"400", "403", "429", "500"} <= statuses
            assert ("401" in statuses) is (path not in PUBLIC)
            if "{" in path:
                assert "404" in statuses


async def test_document_is_served_as_made(served: Served) -> None:
    assert (await served.ask("GET", "/openapi.json")).json == DOCUMENT


def test_document_knows_every_rule_of_the_application() -> None:
    names = [route.name for route in make_routes("1")]
    assert len(names) == len(set(names))
    assert {(route.method, path) for route in make_routes("1") for path in (route.path, *route.also)} == set(
        OPERATIONS
    )


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{m} {p}" for m, p in OPERATIONS])
async def test_no_route_but_health_answers_without_a_token(served: Served, method: str, path: str) -> None:
    real = re.sub(r"\{\w+\}", "x", path)
    upgrade = {}
    if path.endswith("ws"):
        upgrade = {
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13",
            "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==", "Content_Length": "", "Content_Type": "",
        }  # fmt: skip
    answer = await served.ask(method, real, Authorization="", **upgrade)
    if path in PUBLIC:
        assert answer.status == 200
    else:
        assert (answer.status, answer.problem()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", PAGES)
async def test_page_works_offline_under_a_strict_policy(served: Served, path: str) -> None:
    answer = await served.ask("GET", path)
    page = answer.body.decode()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == page.count("<script>") + page.count("<style>")
    assert not re.search(r"https?://|src=|innerHTML|insertAdjacent|document\.write|eval\(| on\w+=", page)


@pytest.mark.parametrize("path", PAGES)
async def test_browser_without_a_token_gets_the_page_that_asks_for_it(served: Served, path: str) -> None:
    answer = await served.ask("GET", path, Authorization="", Accept="text/html,*/*")
    assert answer.status == 401
    assert answer.body == PAGES[path].body
    evil = await served.ask("GET", path, Authorization="", Accept="text/html", Host="evil.example")
    assert evil.problem()["code"] == "host_refused"


async def test_answers_fit_their_schemas(served: Served) -> None:
    spawned = await served.ask("POST", "/agents/spawn", body=task())
    agent_id = spawned.json["agentId"]
    await served.start(agent_id)
    for path, real in (
        ("/agents", "/agents"),
        ("/agents/{agentId}/status", f"/agents/{agent_id}/status"),
        ("/agents/{agentId}/gates", f"/agents/{agent_id}/gates"),
        ("/tasks", "/tasks"),
        ("/tasks/{taskId}", "/tasks/T-1"),
        ("/queue/stats", "/queue/stats"),
        ("/api/queue", "/api/queue"),
        ("/api/queue/settings", "/api/queue/settings"),
        ("/health", "/health"),
        ("/health/ready", "/health/ready"),
    ):
        content = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        jsonschema.Draft202012Validator(schema).validate((await served.ask("GET", real)).json)
