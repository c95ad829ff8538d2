"""What is asked of a request before it is routed: target, Host, Origin, token, scope, rate."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import trio

from orchestrator.api.access import OWNER, Principal, Scope, Tokens, authenticate, digest
from orchestrator.api.limit import Buckets
from orchestrator.api.problem import TokenNeeded
from orchestrator.api.services import Limits
from tests.kit.error_log import ErrorLog
from tests.kit.served import TOKEN, Served, read_answer, serve_api, task

HOSTS = {
    "localhost": True,
    "localhost:3001": True,
    "LOCALHOST": True,
    "127.0.0.1:80": True,
    "[::1]:3001": True,
    "evil.example": False,
    "localhost.evil.example": False,
    "evil.example:80#localhost": False,
    "localhost@evil.example": False,
    "": False,
    "[::1": False,
    "::1": False,
    "localhost:": False,
}
ORIGINS = {
    None: True,
    "http://localhost:8080": True,
    "https://127.0.0.1": True,
    "https://board.example.com": True,
    "http://board.example.com": False,
    "https://evil.example": False,
    "http://localhost.evil.example": False,
    "http://localhost@evil.example": False,
    "file://localhost": False,
    "null": False,
}
AUTHS = {
    None: False,
    f"Authorization: Bearer {TOKEN}": True,
    f"authorization: bearer  {TOKEN}": True,
    f"X-API-Key: {TOKEN}": True,
    f"Authorization: Bearer {TOKEN}x": False,
    "Authorization: Bearer ": False,
    f"Authorization: Basic {TOKEN}": False,
    f"Authorization: {TOKEN}": False,
    f"X-API-Key: {TOKEN}\r\nAuthorization: Bearer wrong": False,
    f"X-API-Key: {TOKEN}\r\nAuthorization: Bearer {TOKEN}": True,
    "X-API-Key: \xff\xfe": False,
}
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def request(host: str, origin: str | None, auth: str | None, *, path: str, more: str = "") -> str:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"Origin: {origin}"] if origin is not None else []
    lines += [auth] if auth is not None else []
    return "\r\n".join(lines) + f"\r\n{more}\r\n"


@pytest.mark.parametrize("websocket", [False, True], ids=["http", "websocket"])
async def test_host_origin_and_token_must_all_be_right(served: Served, *, websocket: bool) -> None:
    path, more, welcome = ("/ws", UPGRADE, 101) if websocket else ("/queue/stats", "", 200)
    for (host, good_host), (origin, good_origin), (auth, good_auth) in itertools.product(
        HOSTS.items(), ORIGINS.items(), AUTHS.items()
    ):
        if sum([good_host, good_origin, good_auth]) < 2:
            continue  # one wrong thing at a time says who refused
        answer = await served.raw(request(host, origin, auth, path=path, more=more))
        case = f"{host!r} {origin!r} {auth!r}"
        if good_host and good_origin and good_auth:
            assert answer.status == welcome, case
        else:
            refused = {"host_refused": good_host, "origin_refused": good_origin, "unauthorized": good_auth}
            assert answer.problem()["code"] == next(code for code, good in refused.items() if not good), case
        assert "server" not in answer.headers


async def test_health_needs_no_token_but_an_allowed_host(served: Served) -> None:
    for path in ("/health", "/api/health", "/health/ready"):
        assert (await served.raw(request("localhost", None, None, path=path))).status == 200
        refused = await served.raw(request("evil.example", None, None, path=path))
        assert refused.problem()["code"] == "host_refused"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("TRACE /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET /health HTTP/1.0\r\n\r\n", 403),
    ],
)
async def test_target_that_is_no_path_is_refused(served: Served, head: str, status: int) -> None:
    answer = await served.raw(head)
    assert answer.status == status
    answer.problem()


@pytest.mark.parametrize(
    "head",
    [
        "GET /health HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        "nonsense\r\n\r\n",
        "GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /" + "x" * 70_000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["no-host", "two-hosts", "smuggling", "nonsense", "not-ascii", "long"],
)
async def test_malformed_http_is_a_4xx(served: Served, head: str) -> None:
    answer = await served.raw(head)
    assert answer.status in {400, 403, 404, 414, 431, 501}
    answer.problem()
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        ("nonsense\r\n\r\n", 400, "bad_request"),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + "x" * 70_000, 431, "headers_too_large"),
        (
            "POST /agents/spawn HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
            501,
            "transfer_encoding_unknown",
        ),
    ],
)
async def test_what_is_no_request_gets_a_problem_document_and_the_end(
    served: Served, head: str, status: int, code: str
) -> None:
    answer = await served.raw(head)
    assert (answer.status, answer.problem()["code"]) == (status, code)
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("path", ["/health%2fready", "/api%2Fhealth", "/agents/x%2fstatus", "/queue%2fstats"])
async def test_encoded_slash_is_no_boundary_of_another_path(served: Served, path: str) -> None:
    assert (await served.raw(request("localhost", None, None, path=path))).problem()["code"] == "unauthorized"
    assert (await served.ask("GET", path)).problem()["code"] == "not_found"


@pytest.mark.parametrize(
    "head",
    [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        f"GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}Sec-WebSocket-Extensions: \xff\xfe\r\n\r\n",
        f"GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}Sec-WebSocket-Protocol: \xff\r\n\r\n",
    ],
    ids=["h2-prior-knowledge", "extensions", "protocols"],
)
async def test_hostile_connection_ends_alone(served: Served, head: str) -> None:
    await served.raw(head)
    assert (await served.ask("GET", "/queue/stats")).status == 200


async def test_offer_of_http2_is_passed_over(served: Served) -> None:
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    wanted = request("localhost", None, None, path="/health", more=offer)
    async with served.open_raw() as stream:
        for _ in range(2):  # and the connection lives on
            await stream.send_all(wanted.encode())
            answer = await read_answer(stream)
            assert (answer.status, answer.json["status"]) == (200, "healthy")


@pytest.mark.parametrize("frame", [b"\x81\x85\0\0\0\0hello", b"\x88\x80\0\0\0\0", b"\xff\xff"], ids=repr)
async def test_frame_before_the_handshake_is_answered_is_no_error_of_ours(
    served: Served, error_log: ErrorLog, frame: bytes
) -> None:
    head = request("localhost", None, f"X-API-Key: {TOKEN}", path="/ws", more=UPGRADE).encode()
    for number in range(40):
        async with served.open_raw() as stream:
            await stream.send_all(head + (frame if number == 0 else b""))
            for _ in range(number // 2):
                await trio.lowlevel.checkpoint()
            if number:
                await stream.send_all(frame)
            if number % 2 == 0:
                assert (await read_answer(stream)).status in {0, 101, 400}  # 0: it was cut
    assert (await served.ask("GET", "/queue/stats")).status == 200
    assert error_log.lines == []


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_page_of_another_site_cannot_post_even_without_an_origin(served: Served, site: str) -> None:
    answer = await served.ask("POST", "/queue/pause", Sec_Fetch_Site=site)
    assert answer.problem()["code"] == "origin_refused"
    assert not served.store.state.control.paused


async def test_every_answer_forbids_sniffing_and_framing(served: Served) -> None:
    for answer in (await served.ask("GET", "/queue/stats"), await served.ask("GET", "/nowhere")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"


async def test_socket_is_its_owners_alone_and_needs_no_token(served: Served) -> None:
    assert served.socket.stat().st_mode & 0o777 == 0o600
    answer = await served.raw(request("localhost", None, None, path="/queue/stats"), unix=True)
    assert answer.status == 200
    wrong = request("localhost", None, "Authorization: Bearer wrong", path="/queue/stats")
    assert (await served.raw(wrong, unix=True)).problem()["code"] == "unauthorized"


def test_socket_peer_of_another_user_is_nobody() -> None:
    tokens = Tokens.of_admin("x")
    assert authenticate(tokens, [], os.geteuid()) is OWNER
    for stranger in (os.geteuid() + 1, None):
        with pytest.raises(TokenNeeded):
            authenticate(tokens, [], stranger)


def test_empty_token_opens_nothing() -> None:
    with pytest.raises(TokenNeeded):
        authenticate(Tokens.of_admin(""), [(b"x-api-key", b"")], None)


@pytest.mark.parametrize(
    ("held", "covered"),
    [
        (Scope.READ, {Scope.READ}),
        (Scope.OPERATE, {Scope.READ, Scope.OPERATE}),
        (Scope.ADMIN, set(Scope)),
        (Scope.FEDERATION, {Scope.FEDERATION}),
    ],
)
def test_scope_covers_exactly_what_it_says(held: Scope, covered: set[Scope]) -> None:
    assert {scope for scope in Scope if Principal("x", held).may(scope)} == covered


def test_tokens_are_told_apart_by_digest() -> None:
    one, two = Principal("one", Scope.READ), Principal("two", Scope.ADMIN)
    tokens = Tokens([(digest(b"a"), one), (digest(b"b"), two)])
    assert (tokens.find(b"a"), tokens.find(b"b"), tokens.find(b"c")) == (one, two, None)


async def test_runaway_client_is_slowed_but_may_still_kill(tmp_path: Path) -> None:
    limits = Limits(requests_per_s=0.1, burst=3)
    async with serve_api(tmp_path, limits=limits) as served:
        spawned = (await served.ask("POST", "/agents/spawn", body=task())).json
        answers = [await served.ask("GET", "/queue/stats") for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 429, 429]
        assert answers[-1].problem()["code"] == "rate_limited"
        assert int(answers[-1].headers["retry-after"]) >= 1
        killed = await served.ask("POST", f"/agents/{spawned['agentId']}/kill")
        assert killed.json["remaining"] == 0
        assert (await served.ask("POST", "/agents/kill-all")).json["total"] == 0


async def test_wrong_tokens_of_its_address_hold_up_no_kill(tmp_path: Path) -> None:
    limits = Limits(requests_per_s=0.1, burst=10, refusals_per_s=0.1, refusals_burst=2)
    async with serve_api(tmp_path, limits=limits) as served:
        spawned = (await served.ask("POST", "/agents/spawn", body=task())).json
        for path in ("/agents/kill-all", f"/agents/{spawned['agentId']}/kill", "/queue/stats") * 20:
            refused = await served.ask("POST", path, Authorization="Bearer guess")
        assert refused.problem()["code"] == "rate_limited"
        assert (await served.ask("GET", "/queue/stats")).status == 200
        assert (await served.ask("POST", f"/agents/{spawned['agentId']}/kill")).json["remaining"] == 0
        assert (await served.ask("POST", "/agents/kill-all")).status == 200


async def test_guessing_tokens_is_slowed_without_locking_out_the_owner(tmp_path: Path) -> None:
    limits = Limits(refusals_per_s=0.1, refusals_burst=3)
    async with serve_api(tmp_path, limits=limits) as served:
        wrong = request("localhost", None, "Authorization: Bearer guess", path="/queue/stats")
        codes = [(await served.raw(wrong)).status for _ in range(5)]
        assert codes == [401, 401, 401, 429, 429]
        assert (await served.raw(wrong.replace("guess", "x"), unix=True)).status == 401
        owner = request("localhost", None, None, path="/queue/stats")
        assert (await served.raw(owner, unix=True)).status == 200


def test_bucket_fills_at_its_rate_up_to_its_burst() -> None:
    now = 0.0
    buckets = Buckets(2.0, 3, lambda: now)
    assert [buckets.take_nowait("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take_nowait("b") == 0.0
    now = 0.5
    assert buckets.wait_s("a") == 0.0
    assert buckets.take_nowait("a") == 0.0
    now = 1000.0
    assert [buckets.take_nowait("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


async def test_many_connections_of_one_client_leave_room_for_the_socket(served: Served) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(served.ask, "GET", "/queue/stats")
    answer = await served.raw(request("localhost", None, None, path="/queue/stats"), unix=True)
    assert answer.status == 200
