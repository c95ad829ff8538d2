"""Input that no honest client sends: a 4xx that names the field, or a typed failure; nothing stays."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.kit.remote import make_remote
from tests.kit.service import Service

BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("taskId", "a/b", "taskId"),
    ("taskId", "..", "taskId"),
    ("taskId", "a..b", "taskId"),
    ("taskId", "a\nb", "taskId"),
    ("taskId", "a\n", "taskId"),
    ("taskId", "", "taskId"),
    ("taskId", "-x", "taskId"),
    ("taskId", "x" * 129, "taskId"),
    ("taskId", 7, "taskId"),
    ("priority", 11, "priority"),
    ("priority", True, "priority"),
    ("priority", "5", "priority"),
    ("agentType", "boss", "agentType"),
    ("gateProfile", "lax", "gateProfile"),
    ("gates", ["ai-review"], "gates"),
    ("surprise", 1, "surprise"),
    ("context.repository", "ext::sh -c 'touch /tmp/owned'", "context.repository"),
    ("context.repository", "file:///etc", "context.repository"),
    ("context.repository", "https://user:secret@example.com/r.git", "context.repository"),
    ("context.repository", "http://127.0.0.1/r.git", "context.repository"),
    ("context.repository", "https://169.254.169.254/r.git", "context.repository"),
    ("context.repository", "https://localhost/r.git", "context.repository"),
    ("context.repository", "ssh://-oProxyCommand=x/r.git", "context.repository"),
    ("context.repository", "--upload-pack=x", "context.repository"),
    ("context.repository", "https://example.com/r.git\nx", "context.repository"),
    ("context.repository", "", "context.repository"),
    ("context.branch", "--upload-pack=x", "context.branch"),
    ("context.branch", "a..b", "context.branch"),
    ("context.branch", "a b", "context.branch"),
    ("context.branch", "@{-1}", "context.branch"),
    ("context.branch", "main\n", "context.branch"),
    ("context.extra", 1, "context.extra"),
    ("options.timeout", 0, "options.timeout"),
    ("options.command", [], "options.command"),
    ("options.command", ["a\u0000b"], "options.command.0"),
    ("options.env", {"A=B": "x"}, "options.env"),
    ("options.env", {"ORCHESTRATOR_TURN": "9"}, "options.env"),
    ("options.runtime", "no-such-runtime", "options.runtime"),
    ("options.maxRetries", -1, "options.maxRetries"),
    ("options.landing", {"branch": "../main"}, "options.landing.branch"),
    ("options.sandbox", False, "options.sandbox"),
]


@pytest.mark.parametrize(("field", "value", "named"), BAD_FIELDS, ids=lambda value: repr(value)[:40])
def test_bad_field_is_named_and_leaves_nothing(
    service: Service, remotes: Path, field: str, value: object, named: str
) -> None:
    remote = remotes / "bad-input.git"
    if not remote.exists():
        make_remote(remotes, "bad-input")
    body = service.request_body(remote, "true", "bad-" + uuid.uuid4().hex[:8])
    place, _, name = field.rpartition(".")
    (body[place] if place else body)[name] = value
    before = service.call("GET", "/tasks")[1]["tasks"]
    status, problem = service.call("POST", "/agents/spawn", body)
    assert status == 422, problem
    assert problem["status"] == 422
    assert problem["code"]
    assert named in [error["field"] for error in problem["errors"]], problem
    assert service.call("GET", "/tasks")[1]["tasks"] == before


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b'{"taskId":"a","taskId":"b"}', 400),
        (b'{"taskId":NaN}', 400),
        (b'{"taskId":"\xff"}', 400),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
        (b'{"taskId":"' + b"x" * (1024 * 1024) + b'"}', 413),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bad_body_is_a_problem_document(service: Service, raw: bytes, status: int) -> None:
    answer = service.http.post("/agents/spawn", content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert json.loads(answer.text)["status"] == status


@pytest.mark.parametrize("missing", ["repository", "branch"])
def test_what_only_the_remote_can_tell_ends_the_agent_typed(
    service: Service, remotes: Path, missing: str
) -> None:
    remote = make_remote(remotes, "there-" + missing) if missing == "branch" else remotes / "nowhere.git"
    context = {"branch": "no-such-branch"} if missing == "branch" else {}
    answer = service.call(
        "POST", "/agents/spawn", service.request_body(remote, "true", "gone-" + missing, context=context)
    )
    if answer[0] == 201:
        end = service.wait(answer[1]["agentId"])
        assert (end["status"], end["reason"]) == ("failed", "repository_error"), end
        assert ("no-such-branch" if missing == "branch" else "nowhere.git") in end["error"]
    else:
        assert answer[0] == 422
        assert answer[1]["errors"][0]["field"] == "context.repository"
    assert not service.agent_directories()
