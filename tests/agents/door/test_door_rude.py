"""The door among rude neighbours: clients that speak no HTTP, providers that break off or keep silent."""

from __future__ import annotations

import ssl

import pytest
import trio

from orchestrator.agents import inbound
from orchestrator.agents.base import Session
from orchestrator.agents.proxy import Door
from orchestrator.agents.upstream import Upstream
from orchestrator.core.trouble import ProviderFailure, Trouble
from orchestrator.errors import ProviderRefused
from sandbox.clock import StoppableClock
from tests.agents.conftest import Log, OpenSession
from tests.agents.doors import IDS, OURS, SHORT, CannedApi, Doors, asked
from tests.kit.messages_api import ScriptedApi, script, scripted_api
from tests.kit.plain_meter import PlainMeter
from tests.kit.until import seen

POST = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n"
RUDE = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10 + b"\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 403),
    "huge headers": (POST + b"x: " + b"y" * 100_000 + b"\r\n\r\n", 431),
    "many headers": (POST + b"".join(b"x%d: y\r\n" % n for n in range(200)) + b"\r\n", 431),
    "no end of a line": (b"GET /" + b"a" * 200_000, 431),
    "two lengths": (POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n", 400),
    "a length and chunks": (POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks of another kind": (POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "a folded header": (POST + b"x: y\r\n z: 1\r\n\r\n", 404),
    "a space before the colon": (POST + b"content-length : 5\r\n\r\nhello", 400),
    "a line feed alone": (b"POST /x HTTP/1.1\nhost: x\n\n", 404),
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),
    "another protocol": (POST + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n", 400),
    "a bad chunk": (POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    "a null in a header": (POST + b"x: a\0b\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", RUDE)
async def test_what_is_no_request_is_told_so_and_harms_nobody_else(
    doors: Doors, shared: ScriptedApi, case: str
) -> None:
    words, status = RUDE[case]
    before = len(shared.requests())
    async with doors.open(shared) as at, at.knock() as polite:
        async with at.knock() as knocker:
            await knocker.say(words)
            answer = await knocker.rest() if status != 404 else b"HTTP/1.1 404 "
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert (await polite.ask("HEAD", "/"))[0] == 200
    assert len(shared.requests()) == before


async def test_second_request_in_the_first_ones_wake_is_answered_after_it(
    doors: Doors, shared: ScriptedApi
) -> None:
    async with doors.open(shared) as at, at.knock() as knocker:
        await knocker.say(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n")
        got = b""
        while got.count(b"HTTP/1.1 ") < 2:
            got += bytes(await knocker.stream.receive_some(65536))
        assert got.index(b" 200 ") < got.index(b" 404 ")


async def test_client_that_does_not_end_its_head_or_body_is_not_waited_for(
    doors: Doors, shared: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound, "HEAD_S", 0.05)
    monkeypatch.setattr(inbound, "BODY_S", 0.05)
    async with doors.open(shared) as at:
        for words in (b"GET / HT", POST + b"content-length: 9\r\n\r\n{"):
            async with at.knock() as knocker:
                await knocker.say(words)
                assert (await knocker.rest()).startswith(b"HTTP/1.1 408 ")


async def test_client_that_takes_no_answer_is_given_up(
    doors: Doors, shared: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound, "SEND_S", 0.05)
    prompt = script({"say_chars": 20_000_000}, agent="takes-nothing")
    async with doors.open(shared) as at, at.knock() as knocker:
        await knocker.begin("POST", "/v1/messages", asked(prompt, stream=True))
        await seen(at.turns, "the answer is given up, and counted")
    assert at.turns()[0].stop_reason == "client_left"


async def test_client_that_leaves_in_the_middle_of_its_request_asks_nothing(
    doors: Doors, shared: ScriptedApi
) -> None:
    before = len(shared.requests())
    async with doors.open(shared) as at:
        for words in (b"", b"POST", POST, POST + b"content-length: 9\r\n\r\n{"):
            async with at.knock() as knocker:
                await knocker.say(words or b"\r\n")
                await knocker.stream.send_eof()
                rest = await knocker.rest()
                assert b" 200 " not in rest
    assert len(shared.requests()) == before


async def test_client_that_speaks_on_and_on_while_it_is_answered_is_left(
    doors: Doors, shared: ScriptedApi
) -> None:
    prompt = script({"fault": {"kind": "hang"}}, agent="speaks-on")
    async with doors.open(shared) as at, at.knock() as knocker:
        await knocker.begin("POST", "/v1/messages", asked(prompt))
        await seen(lambda: shared.messages("speaks-on"), "it is asked")
        await knocker.say(b"x" * 2 * inbound.AHEAD_BYTES)
        await knocker.rest()
    await seen(lambda: shared.messages("speaks-on")[0].how == "cut by the client", "upstream is closed")


async def test_connections_have_a_number(doors: Doors, shared: ScriptedApi) -> None:
    async with doors.open(shared) as at:
        kept = [await trio.open_tcp_stream("127.0.0.1", at.port) for _ in range(Door.max_connections)]
        for stream in kept:
            await stream.send_all(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b" 200 " in await stream.receive_some(1000)
        async with at.knock() as knocker:
            assert await knocker.rest() in {b"", b"<reset>"}
        for stream in kept:
            await stream.aclose()
        await seen(lambda: at.door.connections == 0, "they are gone")
        assert (await at.ask("HEAD", "/"))[0] == 200


# --- providers ---------------------------------------------------------------------------------------------

REDIRECT = b"HTTP/1.1 302 Found\r\nlocation: http://x/\r\ncontent-length: 0\r\n\r\n"
LONG = b"HTTP/1.1 500 no\r\ncontent-length: 999999\r\n\r\n" + b"x" * 100_000
STOP = b'data: {"type":"content_block_stop","index":3}\n\n'
LESS = (
    b'data: {"type":"message_start","message":{"type":"message","model":"m","usage":{"input_tokens":-1}}}\n\n'
)
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(words: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(words), words)


BAD = {
    "nothing": (b"", Trouble.NETWORK),
    "half a head": (b"HTTP/1.1 200 OK\r\nconte", Trouble.NETWORK),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Trouble.SERVER_ERROR),
    "an endless head": (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, Trouble.SERVER_ERROR),
    "an empty stream": (SSE + b"0\r\n\r\n", Trouble.NETWORK),
    "no JSON": (SSE + chunk(b"event: message_start\ndata: {]\n\n"), Trouble.SERVER_ERROR),
    "no object": (SSE + chunk(b"data: 7\n\n"), Trouble.SERVER_ERROR),
    "an event of no type": (SSE + chunk(b'data: {"type":[]}\n\n'), Trouble.NETWORK),
    "events out of order": (SSE + chunk(STOP), Trouble.SERVER_ERROR),
    "counts that are none": (SSE + chunk(LESS), Trouble.SERVER_ERROR),
    "an endless event": (SSE + chunk(b"data: " + b"x" * 5_000_000), Trouble.SERVER_ERROR),
    "a page": (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", Trouble.NETWORK),
    "somewhere else": (REDIRECT, Trouble.REQUEST),
    "another protocol": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Trouble.SERVER_ERROR),
    "a long error": (LONG, Trouble.SERVER_ERROR),
}  # fmt: skip


class Noting(PlainMeter):
    """Keeps the failures."""

    failures: list[ProviderFailure]

    async def ask(self, *given: object, **more: object) -> object:  # type: ignore[override]
        try:
            return await super().ask(*given, **more)  # type: ignore[arg-type]
        except ProviderFailure as failure:
            self.failures.append(failure)
            raise


@pytest.mark.parametrize("case", BAD)
async def test_bad_answer_of_a_provider_ends_typed(doors: Doors, case: str) -> None:
    words, trouble = BAD[case]
    meter = Noting(IDS, doors.log.record)
    meter.failures = []
    async with CannedApi(words).open() as api, doors.open(api.url, meter=meter, patience=SHORT) as at:
        status, _ = await at.ask("POST", "/v1/messages", asked("x", stream=True))
    (failure,) = meter.failures
    assert (failure.trouble, failure.begun) == (trouble, False), failure
    assert status in {500, 502}


@pytest.mark.parametrize("words", [b"", SSE, SSE + chunk(b'data: {"type":"ping"}\n\n')], ids=repr)
async def test_provider_that_keeps_silent_is_given_up(doors: Doors, words: bytes) -> None:
    api = CannedApi(words, then_hangs=True)
    async with api.open(), doors.open(api.url, patience=SHORT) as at:
        status, body = await at.ask("POST", "/v1/messages", asked("x", stream=True))
        await api.left.wait()
    assert (status, b"said nothing for 0.2 s" in body) == (502, True)


async def test_provider_that_is_not_there_is_named(doors: Doors) -> None:
    async with doors.open("http://127.0.0.1:1") as at:
        status, body = await at.ask("POST", "/v1/messages", asked("x"))
        assert (status, b"no connection to 127.0.0.1:1: Connection refused" in body) == (502, True)
        assert (await at.ask("GET", "/v1/models"))[0] == 502


async def test_provider_that_is_quick_to_refuse_a_long_request_is_heard(doors: Doors) -> None:
    error = b'{"type":"error","error":{"type":"request_too_large","message":"too large"}}'
    words = b"HTTP/1.1 413 no\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(error), error)
    async with CannedApi(words).open() as api, doors.open(api.url) as at:
        status, body = await at.ask("POST", "/v1/messages", asked("x" * 3_000_000))
    assert (status, body) == (413, error)


async def test_provider_that_repeats_our_key_is_not_quoted(doors: Doors) -> None:
    error = b'{"type":"error","error":{"type":"invalid_request_error","message":"got %b"}}' % OURS.encode()
    words = b"HTTP/1.1 400 no\r\ncontent-length: %d\r\n\r\n%b" % (len(error), error)
    async with CannedApi(words).open() as api, doors.open(api.url) as at:
        for method, target, body in (("POST", "/v1/messages", asked("x")), ("GET", "/v1/models", None)):
            status, answer = await at.ask(method, target, body)
            assert (status, b"got [hidden]" in answer, OURS.encode() in answer) == (400, True, False)
    assert OURS not in str(at.log.lines) + str(at.log.events)


async def test_provider_over_tls_is_spoken_to_where_its_certificate_is_trusted(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted_api(tls=True) as api:
        monkeypatch.setenv("SSL_CERT_FILE", str(api.ca))
        async with doors.open(api) as at, at.knock() as knocker:
            for _ in range(2):
                body = asked(script({"say_chars": 100_000}), stream=True)
                status, answer = await knocker.ask("POST", "/v1/messages", body)
                assert (status, b"message_stop" in answer) == (200, True)
    assert [request.status for request in api.messages()] == [200, 200]


async def test_provider_without_a_trusted_certificate_is_told_nothing(doors: Doors) -> None:
    async def work(api: ScriptedApi) -> None:
        async with doors.open(api) as at:
            assert (await at.ask("POST", "/v1/messages", asked("x")))[0] == 402

    with scripted_api(tls=True) as api, pytest.raises(ProviderRefused, match="SSL_CERT_FILE names who is"):
        await work(api)
    assert api.requests() == []


async def test_provider_that_speaks_no_tls_is_told_nothing(doors: Doors, shared: ScriptedApi) -> None:
    before = len(shared.requests())
    async with doors.open(shared.url.replace("http:", "https:")) as at:
        status, body = await at.ask("POST", "/v1/messages", asked("x"))
    assert (status, b"does not speak TLS" in body) == (502, True)
    assert len(shared.requests()) == before


def test_oldest_protocols_are_not_spoken() -> None:
    assert Upstream().tls.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert Upstream().tls.verify_mode == ssl.CERT_REQUIRED
    assert Upstream().tls.check_hostname


async def test_connection_that_the_provider_closed_meanwhile_is_not_used_again(doors: Doors) -> None:
    body = b'{"type":"message","model":"m","content":[],"stop_reason":"end_turn","usage":{"input_tokens":1}}'
    words = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    async with CannedApi(words).open() as api, doors.open(api.url) as at, at.knock() as knocker:
        for _ in range(3):
            assert (await knocker.ask("POST", "/v1/messages", asked("x")))[0] == 200
            await api.left.wait()
    assert len(at.turns()) == 3


async def test_answers_with_other_line_ends_are_understood(doors: Doors) -> None:
    events = (
        b'{"type":"message_start","message":{"type":"message","model":"m","usage":{"input_tokens":3}}}',
        b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}',
        b'{"type":"something_new"}',
        b'{"type":"content_block_stop","index":0}',
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}',
        b'{"type":"message_stop"}',
    )
    words = SSE + b"".join(chunk(b"data: " + event + b"\r\n\r\n") for event in events) + b"0\r\n\r\n"
    async with CannedApi(words).open() as api, doors.open(api.url) as at:
        status, answer = await at.ask("POST", "/v1/messages", asked("x", stream=True))
    assert (status, b"something_new" in answer) == (200, True)
    (turn,) = at.turns()
    assert (turn.text, turn.usage and turn.usage.tokens) == ("hi", 5)


async def test_no_time_passes_for_a_client_that_is_frozen(
    open_session: OpenSession, log: Log, shared: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = StoppableClock()

    def frozen(*given: object, **more: object) -> Session:
        session = open_session(*given, **more)
        session.backend.clock = clock
        return session

    monkeypatch.setattr(inbound, "BODY_S", 0.05)
    async with Doors(frozen, log).open(shared) as at, at.knock() as knocker:
        clock.stop()
        await knocker.say(POST + b"content-length: 9\r\n\r\n{")
        with trio.move_on_after(0.2) as waited:
            await knocker.rest()
        assert waited.cancelled_caught, "it is not given up while it stands still"
        clock.go_on()
        assert (await knocker.rest()).startswith(b"HTTP/1.1 408 ")
