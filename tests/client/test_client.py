"""The client against a real server: calls, typed errors, safe repeats, streams that resume."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from orchestrator import client as client_module
from orchestrator.client import Client, ClientError, Unreachable, open_client
from orchestrator.core import events as e
from orchestrator.core.spec import TaskSpec
from orchestrator.core.sse import MAX_FRAME, Decoder, Frame, encode, encode_cursor
from tests.kit.served import TOKEN, Served, serve_api, task


async def test_every_call_over_tcp_and_over_the_socket(served: Served) -> None:
    async with served.open_client() as tcp, open_client(socket=served.socket) as unix:
        for number, client in enumerate((tcp, unix)):
            name = f"T-{number}"
            assert (await client.health())["status"] == "healthy"
            assert (await client.ready())["status"] == "ready"
            spawned = await client.spawn(TaskSpec.model_validate(task(name)))
            agent_id = spawned["agentId"]
            assert (await client.status(agent_id))["taskId"] == name
            assert (await client.agents(task_id=name, limit=5))["agents"][0]["agentId"] == agent_id
            assert (await client.tasks(status="pending"))["tasks"][0]["taskId"] == name
            assert (await client.gates(agent_id))["gates"] == []
            served.diffs[agent_id] = b"+x\n"
            assert await client.diff(agent_id) == "+x\n"
            assert (await client.queue_pause())["paused"] is True
            assert (await client.queue_resume())["paused"] is False
            assert (await client.queue_set("max_concurrent", 3)) == await client.queue_settings()
            assert (await client.queue_stats())["pending"] == 1
            assert (await client.kill(agent_id))["remaining"] == 0
            assert (await client.retry(agent_id))["taskId"] == name
            assert (await client.cancel(name))["status"] == "cancelled"
            assert len((await client.task(name))["attempts"]) == 2
            assert (await client.submit_task(task(f"S-{number}")))["status"] == "pending"
            assert (await client.kill_all())["total"] == 1
            assert (await client.freeze())["frozen"] is True
            assert (await client.thaw())["frozen"] is False
            assert (await client.drain())["draining"] is True
            assert (await client.thaw())["draining"] is False


async def test_refusal_carries_code_status_and_fields(served: Served) -> None:
    async with served.open_client() as client:
        with pytest.raises(ClientError) as caught:
            await client.spawn({"taskId": "a/b", "context": {"repository": "x"}})
        assert (caught.value.code, caught.value.status) == ("invalid", 422)
        assert caught.value.errors[0].field == "taskId"
        assert "taskId" in str(caught.value)
        with pytest.raises(ClientError, match="no agent nobody"):
            await client.status("nobody")
    async with served.open_client(token="wrong") as stranger:
        with pytest.raises(ClientError, match="token"):
            await stranger.queue_stats()
        with pytest.raises(ClientError, match="token"):
            await anext(stranger.events())


async def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    async with open_client("http://127.0.0.1:1") as client:
        with pytest.raises(Unreachable):
            await client.kill("x")
    async with open_client(socket=tmp_path / "none.sock") as client:
        with pytest.raises(Unreachable):
            await client.kill_all()


Answers = list[bytes]


@asynccontextmanager
async def scripted(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve one raw answer a connection, in order; the requests are kept."""
    requests: list[bytes] = []
    pending = list(answers)

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            requests.append(bytes(await stream.receive_some()))
            await stream.send_all(pending.pop(0))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", requests
        nursery.cancel_scope.cancel()


def raw(status: int, body: bytes = b"{}", *more: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} X", "Connection: close", *more))
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


BUSY = raw(502, b"busy")


@pytest.mark.parametrize(
    "call",
    [lambda c: c.queue_stats(), lambda c: c.spawn(task()), lambda c: c.retry("a")],
    ids=["read", "spawn", "retry"],
)
async def test_what_is_safe_to_repeat_is_repeated(call: Callable[[Client], Awaitable[object]]) -> None:
    async with scripted(b"", BUSY, raw(200)) as (url, requests), open_client(url) as client:
        assert await call(client) == {}
    keys = {line for request in requests for line in request.split(b"\r\n") if b"dempotency-" in line}
    assert len(requests) == 3
    assert len(keys) == (0 if requests[0].startswith(b"GET") else 1)


@pytest.mark.parametrize(
    "call",
    [lambda c: c.kill("a"), lambda c: c.kill_all(), lambda c: c.cancel("a"), lambda c: c.queue_pause()],
)
async def test_what_is_not_safe_to_repeat_is_done_once(call: Callable[[Client], Awaitable[object]]) -> None:
    async with scripted(BUSY, raw(200)) as (url, requests), open_client(url) as client:
        with pytest.raises(ClientError) as caught:
            await call(client)
        assert (caught.value.status, caught.value.code, caught.value.retryable) == (502, "http_error", True)
    assert len(requests) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"\xff"])
async def test_answer_of_another_server_is_unreachable(body: bytes) -> None:
    async with scripted(raw(200, body)) as (url, _), open_client(url) as client:
        with pytest.raises(Unreachable, match="no orchestrator"):
            await client.health()


async def test_events_go_on_after_the_server_was_gone(tmp_path: Path) -> None:
    seen: list[int] = []
    async with serve_api(tmp_path) as first, open_client(socket=first.socket) as client:
        events = client.events(after=0)
        seen.append((await anext(events))["seq"])
    async with serve_api(tmp_path) as second, open_client(socket=second.socket) as client:
        seen.append((await anext(client.events(after=events.cursor)))["seq"])
    assert seen == [1, 2]


async def test_events_resume_at_the_cursor_where_the_connection_broke() -> None:
    def piece(data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data)

    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    one, two = (encode(b'{"seq":%d}' % seq, event="x", frame_id=seq) for seq in (6, 7))
    broken = head + piece(encode_cursor(5) + one) + piece(two[:9])
    gap = encode(b'{"gap":{"from":8,"to":9}}', event="gap")
    async with scripted(broken, b"", head + piece(two + gap)) as (url, requests), open_client(url) as client:
        events = client.events()
        assert [await anext(events) for _ in range(3)] == [
            {"seq": 6}, {"seq": 7}, {"gap": {"from": 8, "to": 9}},
        ]  # fmt: skip
        assert events.cursor == 7
    assert [b"after=" in request for request in requests] == [False, True, True]
    assert b"after=6" in requests[1]


async def test_events_up_to_now_end(served: Served) -> None:
    async with served.open_client() as client:
        await client.spawn(task())
        assert [event["seq"] async for event in client.events(follow=False)] == [1, 2, 3, 4]
        only = client.events(follow=False, after=0, types=["task.queued"], task_id="T-1")
        assert [event["type"] async for event in only] == ["task.queued"]


async def test_websocket_gives_the_same_events_and_a_cursor(served: Served) -> None:
    async with served.open_client() as client, client.open_socket(after=0, types=["task.queued"]) as socket:
        await client.spawn(task())
        assert (await anext(socket))["type"] == "task.queued"
        assert socket.cursor == 4
        await socket.subscribe(after=0)
        assert [(await anext(socket))["seq"] for _ in range(2)] == [1, 2]
    async with served.open_client(token="wrong") as stranger:
        with pytest.raises(ClientError, match="token"):
            async with stranger.open_socket():
                raise AssertionError("it opened")


async def test_stream_left_in_the_middle_is_closed_with_the_client(served: Served) -> None:
    async with served.open_client() as client:
        await served.store.record(e.SystemDegraded(part="x", detail="y"))
        async for _event in client.events(after=0):
            break


async def test_log_that_breaks_off_is_taken_up_again() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    first = head + b'c\r\n{"seq":41}\n{\r\n'
    rest = head + b'b\r\n{"seq":42}\n\r\n0\r\n\r\n'
    async with scripted(first, rest) as (url, requests), open_client(url, token=TOKEN) as client:
        assert [line["seq"] async for line in client.logs("a", follow=True)] == [41, 42]
    assert b"after=41" in requests[1]
    assert TOKEN.encode() in requests[1]


async def test_proxy_of_the_environment_is_not_asked(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with served.open_client() as client:
        assert (await client.health())["status"] == "healthy"


def test_decoder_takes_frames_in_any_pieces() -> None:
    whole = encode_cursor(3) + b":\n\n" + encode(b'{"a":"b\\nc"}', event="x", frame_id=4)
    expected = [Frame("3", "message", ""), Frame("4", "x", '{"a":"b\\nc"}')]
    for size in range(1, len(whole)):
        decoder = Decoder()
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        assert [frame for piece in pieces for frame in decoder.feed(piece)] == expected
    with pytest.raises(ValueError, match="more than"):
        Decoder().feed(b"x" * (MAX_FRAME + 1))


def test_every_method_says_what_it_does() -> None:
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        assert name.startswith("_") or method.__doc__, name
    assert set(client_module.__all__) >= {"Client", "ClientError", "Unreachable", "open_client"}
