"""Bad input of every kind is a 4xx problem document that names the field, and leaves nothing behind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio

from orchestrator.api.problem import BadJson
from orchestrator.api.services import Limits
from orchestrator.api.strict_json import parse_object
from orchestrator.client import ClientError
from orchestrator.client_http import Address, ask
from orchestrator.errors import FieldRefused, JournalMisplaced, OrchestratorError
from tests.kit.error_log import ErrorLog
from tests.kit.served import TOKEN, Served, read_answer, serve_api, task

GOOD = json.dumps(task()).encode()

NOT_JSON = {
    "empty": b"",
    "cut": b'{"taskId":',
    "array": b"[]",
    "string": b'"x"',
    "number": b"1",
    "null": b"null",
    "duplicate": b'{"taskId":"a","taskId":"b"}',
    "duplicate-inside": b'{"context":{"branch":"a","branch":"b"}}',
    "nan": b'{"priority":NaN}',
    "infinity": b'{"priority":-Infinity}',
    "huge-integer": b'{"priority":' + b"9" * 5000 + b"}",
    "huge-float": b'{"priority":1e999}',
    "deep": b'{"a":' * 100_000,
    "deep-array": b'{"a":' + b"[" * 50 + b"]" * 50 + b"}",
    "lone-surrogate": rb'{"taskId":"\ud800"}',
    "lone-surrogate-key": rb'{"\udfff":1}',
    "latin-1": b'{"taskId":"\xe9"}',
    "overlong": b'{"taskId":"\xc0\xaf"}',
    "bom": b'\xef\xbb\xbf{"taskId":"a"}',
    "utf-16": '{"taskId":"a"}'.encode("utf-16"),
    "comment": b'{"taskId":"a"} // b',
    "trailing": b'{"taskId":"a"}{}',
    "single-quotes": b"{'taskId':'a'}",
    "control": b'{"taskId":"a\nb"}',
}


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_body_that_is_no_json_object_is_refused(served: Served, content: bytes) -> None:
    for path in ("/agents/spawn", "/tasks"):
        answer = await served.ask("POST", path, content=content)
        assert (answer.status, answer.problem()["code"]) == (400, "bad_json")
    assert served.store.state.queued == 0


@pytest.mark.parametrize(
    "content",
    [
        b'{"a":1.5e3,"b":[{"c":null}],"d":"\\ud83d\\ude00 \xf0\x9f\x98\x80"}',
        b' {"a":-9223372036854775808}\r\n',
    ],
)
def test_json_as_the_standard_has_it_is_read(content: bytes) -> None:
    assert parse_object(content) == json.loads(content)


def test_parser_says_what_is_wrong_and_where() -> None:
    with pytest.raises(BadJson, match="'b' is there twice"):
        parse_object(b'{"a":{"b":1,"b":2}}')
    with pytest.raises(BadJson, match="line 2, column 1"):
        parse_object(b'{"a":1,\n}')


def changed(path: str, value: object) -> dict[str, Any]:
    """Return a good task with one field changed."""
    body: dict[str, Any] = json.loads(GOOD)
    *parents, last = path.split(".")
    at = body
    for name in parents:
        at = at.setdefault(name, {})
    at[last] = value
    return body


BAD_FIELDS = [
    ("taskId", "a/b"),
    ("taskId", ".."),
    ("taskId", "a..b"),
    ("taskId", "a\nb"),
    ("taskId", "a\n"),
    ("taskId", ""),
    ("taskId", "a" * 129),
    ("taskId", "-a"),
    ("taskId", 7),
    ("taskId", None),
    ("agentType", "boss"),
    ("gateProfile", "loose"),
    ("gates.0", None),
    ("priority", 0),
    ("priority", 11),
    ("priority", True),
    ("priority", "5"),
    ("priority", 1.5),
    ("unknown", 1),
    ("task_id", "a"),
    ("context.branch", "--upload-pack=x"),
    ("context.branch", "a..b"),
    ("context.branch", "a\nb"),
    ("context.branch", "@{-1}"),
    ("context.branch", ""),
    ("context.repository", ""),
    ("context.repository", "a" * 2001),
    ("context.repository", ["x"]),
    ("context.secret", "x"),
    ("context.workItems.0", {"a": 1}),
    ("options.timeout", -1),
    ("options.maxRetries", 101),
    ("options.command", []),
    ("options.runtime", "../x"),
    ("options.env", {"PATH=x": "y"}),
    ("options.model", "--help"),
    ("options.budget.costUsd", -1),
    ("options.resources.memoryMb", 0),
    ("options.landing.branch", "-x"),
    ("options.sandbox", "yes"),
]


@pytest.mark.parametrize(("path", "value"), BAD_FIELDS, ids=[f"{p}={v!r}"[:40] for p, v in BAD_FIELDS])
async def test_bad_field_is_named_by_its_path(served: Served, path: str, value: object) -> None:
    body = changed(path, value) if not path.endswith(".0") else changed(path.removesuffix(".0"), [value])
    answer = await served.ask("POST", "/agents/spawn", body=body)
    problem = answer.problem()
    assert (answer.status, problem["code"]) == (422, "invalid")
    assert path in [error["field"].removesuffix(".[key]") for error in problem["errors"]], problem
    assert served.store.state.queued == 0


async def test_messages_are_in_words_of_json_and_said_once(served: Served) -> None:
    for path, value, message in (
        ("options.command", ["x\0"], None),
        ("options.command", 7, "must be an array"),
        ("options.command", [], "must have a length of at least 1"),
        ("options.env", [], "must be an object"),
        ("options", 7, "must be an object"),
        ("priority", "5", "must be a whole number"),
        ("priority", 11, "must be at most 10"),
        ("options.sandbox", "yes", "must be true or false"),
        ("taskId", 7, "must be a string"),
        ("gateProfile", "lax", "must be one of 'strict', 'standard', 'minimal' or 'custom'"),
        ("unknown", 1, "is not known here"),
    ):
        answer = await served.ask("POST", "/tasks", body=changed(path, value))
        (error,) = answer.problem()["errors"]
        assert error["field"] == ("options.command.0" if message is None else path)
        assert message in {None, error["message"]}
        assert not re.search(r"Tuple|[Dd]ictionary|instance of|Input|Field", answer.body.decode())
    async with served.open_client() as client:
        with pytest.raises(ClientError) as caught:
            await client.spawn(changed("priority", 11))
    assert str(caught.value).count("must be at most 10") == 1


async def test_refused_field_is_named_once(tmp_path: Path) -> None:
    def check_task(_spec: object) -> str:
        raise FieldRefused("options.sandbox", "every agent runs in a sandbox here")

    async with serve_api(tmp_path, check_task=check_task) as served:
        problem = (await served.ask("POST", "/tasks", body=task())).problem()
    assert (problem["status"], problem["code"]) == (422, "field_refused")
    assert problem["errors"] == [
        {"field": "options.sandbox", "message": "every agent runs in a sandbox here"}
    ]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/events?types=nope", "types"),
        ("/events?types=agent", "types"),
        ("/events?types=", "types"),
        ("/events?types=agent.running,nope.", "types"),
        ("/agents/{}/logs?stream=foo", "stream"),
        ("/agents/{}/logs?surprise=1", "surprise"),
        ("/health?surprise=1", "surprise"),
        ("/health/ready?surprise=1", "surprise"),
    ],
)
async def test_parameter_that_means_nothing_is_named(served: Served, path: str, field: str) -> None:
    agent_id = (await served.ask("POST", "/tasks", body=task())).json["agentId"]
    answer = await served.ask("GET", path.format(agent_id))
    assert answer.status == 422
    assert [error["field"] for error in answer.problem()["errors"]] == [field]


async def test_kill_with_a_parameter_is_refused_and_kills_nobody(served: Served) -> None:
    agent_id = (await served.ask("POST", "/tasks", body=task())).json["agentId"]
    answer = await served.ask("POST", f"/agents/{agent_id}/kill?surprise=1")
    assert (answer.status, answer.problem()["errors"][0]["field"]) == (422, "surprise")
    assert served.kill_switch.actors == []


async def test_missing_field_is_named_too(served: Served) -> None:
    problem = (await served.ask("POST", "/agents/spawn", body={"context": {}})).problem()
    assert [error["field"] for error in problem["errors"]] == ["taskId", "context.repository"]


async def test_refused_repository_names_its_field(served: Served) -> None:
    answer = await served.ask("POST", "/tasks", body=task(context={"repository": "ext::sh -c x"}))
    problem = answer.problem()
    assert (answer.status, problem["code"]) == (422, "repository_refused")
    assert problem["errors"][0]["field"] == "context.repository"


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_other_media_types_are_refused(served: Served, media: str) -> None:
    answer = await served.ask("POST", "/agents/spawn", content=GOOD, Content_Type=media)
    assert answer.problem()["code"] == "unsupported_media_type"


@pytest.mark.parametrize("size", [1024 * 1024 + 1, 5 * 1024 * 1024])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_body_over_a_mebibyte_is_413_and_the_client_sees_it(
    served: Served, size: int, *, chunked: bool
) -> None:
    content = b'{"taskId":"' + b"a" * (size - 13) + b'"}'
    framing: dict[str, str] = {}
    if chunked:
        piece = 64 * 1024
        parts = [content[at : at + piece] for at in range(0, size, piece)]
        content = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        framing = {"Content_Length": "", "Transfer_Encoding": "chunked"}
    answer = await served.ask("POST", "/agents/spawn", content=content, **framing)
    assert (answer.status, answer.problem()["code"]) == (413, "too_large")


async def test_body_of_exactly_a_mebibyte_is_read(served: Served) -> None:
    content = b'{"taskId":"' + b"a" * (1024 * 1024 - 13) + b'"}'
    answer = await served.ask("POST", "/agents/spawn", content=content)
    assert answer.problem()["code"] == "invalid"


async def test_body_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    slow = Limits(body_bytes=1000, body_deadline_s=30, body_bytes_per_s=10)
    assert [slow.body_s(length) for length in (0, 500, 10**18)] == [30, 80, 130]
    assert Limits().body_s(10**6) == 30
    async with serve_api(tmp_path, limits=Limits(body_deadline_s=0.2)) as served:
        stream = await trio.open_tcp_stream("127.0.0.1", served.port)
        async with stream:
            head = (
                f"POST /tasks HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {TOKEN}\r\nContent-Length: 9\r\n\r\n"
            )
            await stream.send_all(head.encode() + b"{")
            assert (await read_answer(stream)).problem()["code"] == "request_timeout"


NAUGHTY_IDS = [
    "..",
    "%2e%2e",
    "%2e%2e%2fetc",
    "a%00b",
    "%0a",
    "%ff%fe",
    "%ed%a0%80",
    "'--",
    "%27%20OR%201=1",
    "x" * 5000,
    "%F0%9F%98%80",
    "--upload-pack=x",
    "$(id)",
    "%25s%25n",
    "<script>",
]


@pytest.mark.parametrize("name", NAUGHTY_IDS, ids=[name[:16] for name in NAUGHTY_IDS])
async def test_naughty_id_is_not_found(served: Served, name: str) -> None:
    for method, path in (
        ("GET", f"/agents/{name}/status"),
        ("POST", f"/agents/{name}/kill"),
        ("POST", f"/agents/{name}/retry"),
        ("GET", f"/agents/{name}/logs"),
        ("GET", f"/agents/{name}/diff"),
        ("GET", f"/tasks/{name}"),
        ("DELETE", f"/tasks/{name}"),
    ):
        answer = await served.ask(method, path)
        assert answer.status == 404, (method, path, answer.body)
        answer.problem()


@pytest.mark.parametrize(
    "path",
    [
        "/agents?limit=0",
        "/agents?limit=1001",
        "/agents?limit=x",
        "/agents?limit=1&limit=2",
        "/agents?status=dead",
        "/agents?after=x",
        "/agents?after=-1",
        "/agents?unknown=1",
        "/tasks?status=running",
        "/queue/stats?x",
        "/events?after=-1",
        "/events?after=1e3",
        "/events?after=99999999999999999999",
        "/events?follow=maybe",
        "/agents?" + "&".join(f"a{n}=1" for n in range(100)),
    ],
)
async def test_bad_query_is_refused(served: Served, path: str) -> None:
    answer = await served.ask("GET", path)
    assert answer.status in {400, 422}
    answer.problem()


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "\xff", "a\tb"], ids=repr)
async def test_bad_idempotency_key_is_refused(served: Served, key: str) -> None:
    head = f"POST /tasks HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {TOKEN}\r\nIdempotency-Key: {key}\r\n"
    answer = await served.raw(f"{head}Content-Length: {len(GOOD)}\r\n\r\n".encode("latin-1") + GOOD)
    assert answer.status == 422
    assert answer.problem()["errors"][0]["field"] == "Idempotency-Key"


async def test_last_event_id_that_is_not_ours_is_refused(served: Served) -> None:
    answer = await served.ask("GET", "/events", Last_Event_ID="abc")
    assert answer.problem()["errors"][0]["field"] == "Last-Event-ID"


@pytest.mark.parametrize(
    "path", ["/nowhere", "/agents/", "//agents", "//docs", "/agents/../health", "/api/agents", "/metrics"]
)
async def test_unknown_path_is_404(served: Served, path: str) -> None:
    answer = await served.ask("GET", path)
    assert (answer.status, answer.problem()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/agents/spawn", "POST"),
        ("POST", "/agents", "GET, HEAD"),
        ("PUT", "/tasks", "GET, HEAD, POST"),
        ("OPTIONS", "/agents", "GET, HEAD"),
        ("PATCH", "/tasks/x", "DELETE, GET, HEAD"),
    ],
)
async def test_wrong_method_is_405_and_says_which_are_right(
    served: Served, method: str, path: str, allowed: str
) -> None:
    answer = await served.ask(method, path)
    assert (answer.status, answer.problem()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


async def test_head_of_a_stream_ends(served: Served) -> None:
    address = Address(served.url, None, {"Authorization": f"Bearer {TOKEN}"})
    for path in ("/events", "/queue/stats"):
        answer = await ask(address, "HEAD", path, {}, body=b"", timeout_s=10)
        assert (answer.status, answer.content) == (200, b"")


class Exploding(Exception):
    """Something nobody foresaw, with a path of the host: /srv/secret."""


@pytest.mark.parametrize("error", [Exploding("/srv/secret"), JournalMisplaced("/srv/secret is on NFS")])
async def test_error_of_ours_shows_nothing_of_the_host(
    served: Served, error_log: ErrorLog, error: Exception
) -> None:
    served.kill_switch.error = error  # type: ignore[assignment]  # whatever can be raised
    answer = await served.ask("POST", "/agents/x/kill")
    assert answer.status in {500, 503}
    assert "secret" not in answer.body.decode()
    answer.problem()
    error_log.take("a request failed")


def test_every_error_has_a_sentence_for_clients() -> None:
    pending: list[type[OrchestratorError]] = [OrchestratorError]
    while pending:
        kind = pending.pop()
        assert kind.__doc__, kind
        pending += kind.__subclasses__()
