"""Events and logs as streams: nothing lost, nothing twice, gaps said, ends known."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing
import trio_websocket

from orchestrator.api.feed import Feed, Filter
from orchestrator.api.services import Limits
from orchestrator.api.stream import CACHED_BYTES, Encoded, Form, Streams
from orchestrator.client_http import Address, Answer, open_answer
from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.events import Recorded
from orchestrator.core.model import AgentId, TaskId
from orchestrator.core.sse import Decoder, Frame
from orchestrator.journal.bus import Bus
from tests.kit.served import TOKEN, Served, serve_api, task

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Content_Length": "",
    "Content_Type": "",
}
AUTH = {"Authorization": f"Bearer {TOKEN}"}


async def spawn(served: Served, task_id: str = "T-1") -> str:
    return str((await served.ask("POST", "/tasks", body=task(task_id))).json["agentId"])


class Frames:
    """The frames of an SSE response, one by one."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._decoder = Decoder()
        self._ready: list[Frame] = []

    async def next(self) -> Frame:
        """Return the next frame that is dispatched or moves the cursor."""
        while not self._ready:
            with trio.fail_after(20):
                piece = await self.answer.read_some()
            if not piece:
                raise EOFError
            self._ready = self._decoder.feed(piece)
        return self._ready.pop(0)


@asynccontextmanager
async def open_sse(served: Served, path: str, **headers: str) -> AsyncIterator[Frames]:
    address = Address(served.url, None, AUTH)
    answer = await open_answer(
        address, path, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    try:
        assert answer.status == 200, await answer.read_some()
        yield Frames(answer)
    finally:
        answer.close_nowait()


@asynccontextmanager
async def open_ws(served: Served, path: str) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    headers = [(b"authorization", AUTH["Authorization"].encode())]
    async with trio_websocket.open_websocket_url(
        f"ws://127.0.0.1:{served.port}{path}", extra_headers=headers
    ) as socket:
        try:
            yield socket
        finally:
            # The library leaves the stream open where the server closed first.
            await trio.aclose_forcefully(socket._stream)  # noqa: SLF001


@pytest.mark.parametrize("path", ["/events", "/agents/events"])
async def test_sse_begins_now_and_follows(served: Served, path: str) -> None:
    await spawn(served, "T-0")
    head = served.store.state.seq
    async with open_sse(served, path) as frames:
        assert frames.answer.headers["content-type"] == "text/event-stream"
        assert (await frames.next()) == Frame(str(head), "message", "")
        await served.store.submit(c.PauseQueue())
        frame = await frames.next()
        assert (frame.id, frame.event) == (str(head + 1), "queue.paused")
        event = json.loads(frame.data)
        assert event.keys() == {"seq", "id", "type", "time", "agentId", "taskId", "data"}


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/events?after=2", {}),
        ("/events", {"Last_Event_ID": "2"}),
        ("/events?after=0", {"Last_Event_ID": "2"}),  # as a browser that connects anew
    ],
)
async def test_sse_resumes_after_a_sequence_number(
    served: Served, path: str, headers: dict[str, str]
) -> None:
    await spawn(served)
    async with open_sse(served, path, **headers) as frames:
        assert (await frames.next()).id == "2"
        assert [(await frames.next()).id for _ in range(2)] == ["3", "4"]


async def test_sse_filters_by_type_agent_and_task(served: Served) -> None:
    first, second = await spawn(served, "T-1"), await spawn(served, "T-2")
    query = f"/events?after=0&follow=false&types=agent.spawning,task.queued&agentId={second}"
    async with open_sse(served, query) as frames:
        assert [(await frames.next()).event for _ in range(3)][1:] == ["agent.spawning", "task.queued"]
        with pytest.raises(EOFError):
            await frames.next()
    async with open_sse(served, "/events?taskId=T-1&types=task.assigned") as frames:
        await frames.next()
        await served.start(second)
        await served.start(first)
        event = json.loads((await frames.next()).data)
        assert (event["type"], event["taskId"]) == ("task.assigned", "T-1")


async def test_quiet_stream_sends_comments(tmp_path: Path) -> None:
    async with (
        serve_api(tmp_path, limits=Limits(heartbeat_s=0.05)) as served,
        open_sse(served, "/events") as frames,
    ):
        seen = b""
        while seen.count(b":\n\n") < 3:
            seen += await frames.answer.read_some()


async def take_some(served: Served, feed: Feed) -> list[int]:
    """Return the numbers of what comes next, from the journal or, as a flow does it, from the bus."""
    if items := await feed.replay():
        return [item.seq for item in items]
    await served.store.bus.wait_past(feed.cursor)
    pieces, streams = b"", Streams()
    while piece := streams.next_piece(feed, Form.SSE):
        pieces += piece
    return [int(frame.id or 0) for frame in Decoder().feed(pieces)]


async def test_seam_between_journal_and_bus_loses_and_doubles_nothing(served: Served) -> None:
    total = 1500
    wanted = Filter(types=frozenset({"system.degraded"}))
    seen: dict[int, list[int]] = {}

    async def write() -> None:
        while served.store.state.seq < total:
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(served.store.record, e.SystemDegraded(part="x", detail="y"))

    async def read(number: int) -> None:
        feed, seqs = Feed(served.store, 0, wanted), seen.setdefault(number, [])
        while feed.cursor < total:
            seqs += await take_some(served, feed)
            if number % 2:  # comes and goes with its cursor
                feed = Feed(served.store, feed.cursor, wanted)
            for _ in range(number):
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for number in (1, 2, 11, 20, 31, 40):
            nursery.start_soon(read, number)
    for seqs in seen.values():
        assert seqs == list(range(2, seqs[-1] + 1))


async def test_slow_reader_is_told_its_gap_and_can_fetch_it(served: Served) -> None:
    head = served.store.state.seq
    served.store.bus = Bus(head, kept=5)
    streams, feed = Streams(), Feed(served.store, None)
    assert await feed.replay() == []  # now it is on the bus
    for _ in range(20):
        await served.store.record(e.SystemDegraded(part="x", detail="y"))
    frames = Decoder().feed(streams.next_piece(feed, Form.SSE))
    assert [frame.id for frame in frames] == [None, *(str(head + n) for n in range(16, 21))]
    gap = json.loads(frames[0].data)["gap"]
    assert (frames[0].event, gap) == ("gap", {"from": head + 1, "to": head + 15})
    assert streams.next_piece(feed, Form.SSE) == b""
    await served.store.record(e.SystemDegraded(part="x", detail="y"))
    assert Decoder().feed(streams.next_piece(feed, Form.SSE))[0].id == str(head + 21)
    missed = await served.store.events_after(gap["from"] - 1, limit=gap["to"] - gap["from"] + 1)
    assert [event.seq for event in missed] == list(range(head + 1, head + 16))


@pytest.mark.parametrize("kind", ["sse", "websocket"])
async def test_reader_that_stops_for_a_while_holds_up_nobody_and_gets_whole_frames(
    served: Served, kind: str
) -> None:
    head = served.store.state.seq
    served.store.bus = Bus(head, kept=60)
    count = 40 * 20  # of 20 kB each: more than all buffers of the kernel hold
    reached = head

    def take(text: str) -> int:
        told = json.loads(text)
        gap = told.get("gap") or {"from": told["seq"], "to": told["seq"]}
        assert gap["from"] == reached + 1  # in order, nothing missed, nothing twice
        return int(gap["to"])

    async with AsyncExitStack() as owned:
        if kind == "sse":
            frames = await owned.enter_async_context(open_sse(served, "/events"))
            await frames.next()
        else:
            socket = await owned.enter_async_context(open_ws(served, "/ws"))
        for _ in range(count // 20):
            await served.store.record(*(e.SystemDegraded(part="x", detail="y" * 20_000) for _ in range(20)))
        while reached < head + count:
            reached = take((await frames.next()).data if kind == "sse" else await socket.get_message())


async def test_event_is_encoded_once_and_joined_once_for_readers_at_one_place(served: Served) -> None:
    streams, (one, other) = Streams(), (Feed(served.store, None) for _ in range(2))
    assert await one.replay() == await other.replay() == []
    (recorded,) = await served.store.record(e.SystemDegraded(part="x", detail="y"))
    assert streams.encode(recorded) is streams.encode(recorded)
    assert streams.next_piece(one, Form.WEBSOCKET) is streams.next_piece(other, Form.WEBSOCKET) != b""


async def test_client_of_http_1_0_gets_events_without_chunks(served: Served) -> None:
    head = served.store.state.seq
    request = f"GET /events HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    async with served.open_raw() as stream:
        await stream.send_all(request.encode())
        data = b""
        while not data.endswith(b"\n\n"):
            data += await stream.receive_some()
        await served.store.record(e.SystemDegraded(part="x", detail="y"))
        while not data.endswith(b"}\n\n"):
            data += await stream.receive_some()
    events = Decoder().feed(data.partition(b"\r\n\r\n")[2])
    assert [frame.id for frame in events] == [str(head), str(head + 1)]


async def test_reader_that_leaves_gives_its_place_on_the_bus_up(served: Served) -> None:
    async with open_sse(served, "/events") as frames:
        await frames.next()
        await served.store.record(e.SystemDegraded(part="x", detail="y"))
        await frames.next()
        await trio.testing.wait_all_tasks_blocked()
        assert len(served.store.bus._readers) == 1  # noqa: SLF001 - there is no other way to see it
    for _ in range(10_000):
        await trio.lowlevel.checkpoint()
        if not served.store.bus._readers:  # noqa: SLF001
            return
    raise AssertionError("the reader is gone and its place is still taken")


@pytest.mark.parametrize("path", ["/ws", "/agents/ws"])
async def test_websocket_follows_from_now_on(served: Served, path: str) -> None:
    async with open_ws(served, path) as socket:
        await spawn(served)
        types = [json.loads(await socket.get_message())["type"] for _ in range(3)]
    assert types == ["task.submitted", "agent.spawning", "task.queued"]


async def test_websocket_subscribes_anew_as_often_as_it_likes(served: Served) -> None:
    await spawn(served)
    async with open_ws(served, "/ws") as socket:
        for after, types, expected in (
            (0, None, [1, 2, 3, 4]),
            (2, None, [3, 4]),
            (0, ["task.queued"], [4]),
            (0, ["task."], [2, 4]),
        ):
            wanted = {"after": after, **({"types": types} if types else {})}
            await socket.send_message(json.dumps({"subscribe": wanted}))
            assert [json.loads(await socket.get_message())["seq"] for _ in expected] == expected


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no json", 1008),
        ('{"subscribe":{"after":-1}}', 1008),
        ('{"subscribe":{"after":0,"after":1}}', 1008),
        ('{"publish":{}}', 1008),
        ('{"subscribe":{"after":"5"}}', 1008),
        ('{"subscribe":{"types":["nope"]}}', 1008),
        ('{"subscribe":{"surprise":1}}', 1008),
        ("[]", 1008),
        (b"bytes", 1003),
        ("x" * 70_000, 1009),
    ],
)
async def test_websocket_that_talks_nonsense_is_closed_with_a_reason(
    served: Served, message: str | bytes, code: int
) -> None:
    async with open_ws(served, "/ws") as socket:
        await socket.send_message(message)
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await socket.get_message()
        assert closed.value.reason.code == code
    assert (await served.ask("GET", "/queue/stats")).status == 200


async def test_websocket_refuses_a_bad_query_before_it_opens(served: Served) -> None:
    answer = await served.ask("GET", "/ws?after=x", **UPGRADE)
    assert answer.problem()["errors"][0]["field"] == "after"


async def test_path_of_a_websocket_takes_no_plain_request(served: Served) -> None:
    assert (await served.ask("GET", "/ws")).problem()["status"] == 400


async def write_lines(served: Served, agent_id: str, *lines: str, stream: str = "stdout") -> None:
    for line in lines:
        await served.store.logs.write(agent_id, stream, line)
    await served.store.logs.wait_written()


async def test_log_is_ndjson_with_a_cursor(served: Served) -> None:
    agent_id = await spawn(served)
    await write_lines(served, agent_id, "one", "\x1b[2Jtwo\u2028<script>", "three")
    await write_lines(served, agent_id, "oops", stream="stderr")
    answer = await served.ask("GET", f"/agents/{agent_id}/logs")
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [line["content"] for line in lines] == ["one", "\x1b[2Jtwo\u2028<script>", "three", "oops"]
    assert b"\x1b" not in answer.body
    assert lines[0].keys() == {"seq", "time", "stream", "content"}
    rest = await served.ask("GET", f"/agents/{agent_id}/logs?after={lines[1]['seq']}&stream=stdout")
    assert [json.loads(line)["content"] for line in rest.body.splitlines()] == ["three"]


async def test_followed_log_ends_when_its_agent_has_ended(served: Served) -> None:
    agent_id = await spawn(served)
    await served.start(agent_id)
    await write_lines(served, agent_id, "early")
    async with served.open_client() as client:
        lines = client.logs(agent_id, follow=True)
        assert (await anext(lines))["content"] == "early"
        await write_lines(served, agent_id, "noise", stream="stderr")
        assert (await anext(lines))["content"] == "noise"
        await served.store.logs.write(agent_id, "stdout", "late")
        await served.finish(agent_id)
        assert [line["content"] async for line in lines] == ["late"]


async def test_followed_log_of_one_stream_ignores_the_others(served: Served) -> None:
    agent_id = await spawn(served)
    await served.start(agent_id)
    async with served.open_client() as client:
        lines = client.logs(agent_id, follow=True, stream="stderr")
        await write_lines(served, agent_id, *("noise",) * 50)
        await write_lines(served, agent_id, "wanted", stream="stderr")
        assert (await anext(lines))["content"] == "wanted"
        await served.finish(agent_id)
        assert [line async for line in lines] == []


async def test_log_comes_by_sse_where_it_is_asked_for(served: Served) -> None:
    agent_id = await spawn(served)
    await write_lines(served, agent_id, "one", "two")
    async with open_sse(served, f"/agents/{agent_id}/logs", Accept="text/event-stream") as frames:
        first = await frames.next()
        assert (first.event, json.loads(first.data)["content"]) == ("log", "one")
        await frames.next()
        with pytest.raises(EOFError):
            await frames.next()
    for query in ("", "?after=0"):
        resumed = await served.ask("GET", f"/agents/{agent_id}/logs{query}", Last_Event_ID=str(first.id))
        assert [json.loads(line)["content"] for line in resumed.body.splitlines()] == ["two"]


def test_encoded_events_are_kept_within_a_ceiling_of_bytes() -> None:
    streams, at = Streams(), datetime(2026, 1, 31, 12, tzinfo=UTC)

    def encode(seq: int) -> Encoded:
        event = e.AgentAttention(task_id=TaskId("t"), agent_id=AgentId("a"), message="x" * 900_000)
        return streams.encode(Recorded(seq, f"id-{seq}", at, event, ""))

    tracemalloc.start()
    try:
        for seq in range(100):
            encode(seq)
        newest = encode(100)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert CACHED_BYTES - 4_000_000 < taken < CACHED_BYTES + 1_000_000
    assert encode(100) is newest
