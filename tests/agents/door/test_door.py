"""The door to the model: what goes by, what it costs, what is held back, and how failures are told."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anthropic
import h11
import pytest
import trio

from orchestrator.agents.base import Answer, Request, ToolUnpriced
from orchestrator.core.model import Usage
from orchestrator.core.trouble import Trouble
from orchestrator.errors import BudgetExceeded, ProviderRefused
from sandbox.base import Backend
from sandbox.inlet import open_socket
from tests.agents.conftest import OpenSession
from tests.agents.doors import IDS, MODEL, OURS, Doors, Gate, asked
from tests.kit.claude_code import run_claude
from tests.kit.messages_api import ScriptedApi, script, scripted_api
from tests.kit.plain_meter import PlainMeter
from tests.kit.until import seen

COUNTED = {
    "input_tokens": 5,
    "output_tokens": 6,
    "cache_read_input_tokens": 7,
    "cache_creation_input_tokens": 8,
}
SPENT = Usage(input_tokens=5, output_tokens=6, cache_read_tokens=7, cache_write_tokens=8)


@pytest.fixture(scope="module")
def shared() -> Iterator[ScriptedApi]:
    """One API for all tests that change no settings; it takes our key alone."""
    with scripted_api(keys=[OURS]) as api:
        yield api


@pytest.mark.parametrize("streams", [True, False])
async def test_sdk_speaks_through_the_door_with_our_key_and_is_counted(
    doors: Doors, shared: ScriptedApi, streams: bool
) -> None:
    agent = f"sdk-{streams}"
    prompt = script({"think": "so", "say": "hi", "do": {"run": "ls"}, "usage": COUNTED}, agent=agent)
    async with doors.open(shared) as at:
        at.door.prompt = 3
        async with anthropic.AsyncAnthropic(base_url=at.url, api_key="theirs", max_retries=0) as client:
            if streams:
                async with client.messages.stream(**asked(prompt)) as stream:
                    message = await stream.get_final_message()
            else:
                message = await client.messages.create(**asked(prompt))
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    (request,) = shared.messages(agent)
    assert (request.key, "authorization" in request.headers) == (OURS, False)
    (turn,), (usage,) = at.turns(), at.usages()
    assert (turn.turn, turn.prompt, turn.model, turn.stop_reason, turn.text) == (
        1,
        3,
        MODEL,
        "tool_use",
        "hi",
    )
    assert turn.usage == usage.usage == SPENT
    *said, answer = json.loads(turn.content or "")
    assert said == [{"role": "user", "content": prompt}]
    assert answer["content"] == [block.model_dump(exclude_none=True) for block in message.content]


async def test_credentials_of_the_client_stay_here(doors: Doors, shared: ScriptedApi) -> None:
    prompt = script({"say": "x"}, agent="credentials")
    headers = {
        "x_api_key": "A",
        "authorization": "Bearer B",
        "cookie": "C",
        "proxy_authorization": "D",
        "x_y": "E",
    }
    async with doors.open(shared) as at:
        status, _ = await at.ask(
            "POST", "/v1/messages?beta=true", asked(prompt), **headers, anthropic_beta="b-1"
        )
    (request,) = shared.messages("credentials")
    assert (status, request.path, request.headers["anthropic-beta"]) == (200, "/v1/messages?beta=true", "b-1")
    assert not {"authorization", "cookie", "proxy-authorization", "x-y"} & request.headers.keys()
    assert request.headers["x-api-key"] == OURS
    assert request.headers["host"] == shared.url.removeprefix("http://")


async def test_what_could_be_acted_upon_waits_for_the_journal(doors: Doors, shared: ScriptedApi) -> None:
    steps = {"say": "I write", "do": [{"run": "ls"}, {"run": "pwd"}]}
    gate, got = Gate(), b""
    async with doors.open(shared, meter=PlainMeter(IDS, gate.record)) as at, at.knock() as knocker:
        await knocker.begin("POST", "/v1/messages", asked(script(steps), stream=True))
        while b"input_json_delta" not in got:
            part = await knocker.event()
            got += bytes(part.data) if isinstance(part, h11.Data) else b""
        await gate.reached.wait()
        with trio.move_on_after(0.05):
            part = await knocker.event()
            got += bytes(part.data) if isinstance(part, h11.Data) else b""
        assert got.count(b"event: content_block_stop") == 1, "the text's alone"
        assert got.count(b"tool_use") == 1, "the second call is not shown before the first may be done"
        assert b"message_delta" not in got
        gate.open.set()
        while isinstance(part := await knocker.event(), h11.Data):
            got += bytes(part.data)
    assert got.count(b"event: content_block_stop") == 3
    assert got.endswith(b'event: message_stop\ndata: {"type": "message_stop"}\n\n')


async def test_connection_is_kept_on_both_sides(doors: Doors, shared: ScriptedApi) -> None:
    async with doors.open(shared) as at, at.knock() as knocker:
        for stream in (True, False, True):
            status, body = await knocker.ask(
                "POST", "/v1/messages", asked(script({"say": "x"}), stream=stream)
            )
            assert (status, b"end_turn" in body) == (200, True)
        assert (await knocker.ask("GET", "/v1/models"))[0] == 200
        assert (await knocker.ask("HEAD", "/"))[0] == 200
        tokens = await knocker.ask(
            "POST",
            "/v1/messages/count_tokens",
            {"model": MODEL, "messages": [{"role": "user", "content": "x"}]},
        )
        assert (tokens[0], json.loads(tokens[1])["input_tokens"] > 0) == (200, True)
        assert (await knocker.ask("GET", f"/v1/models/{MODEL}"))[0] == 200
    assert len(at.turns()) == 3


URL_SOURCE = {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x/"}}]}
FETCH = {"type": "web_fetch_20250910", "name": "f"}
TWICE = json.dumps(asked("x"))[:-1].encode() + b', "model": "dear"}'
CALLED = [{"url": "https://x/"}]
REFUSED = {
    "another path": ("POST", "/v1/files", {}, 404),
    "an admin path": ("GET", "/v1/organizations/users", None, 404),
    "a path in disguise": ("POST", "/v1/messages/../files", {}, 404),
    "an encoded path": ("POST", "/v1/%6dessages", {}, 404),
    "two slashes": ("POST", "//v1/messages", {}, 404),
    "another method": ("DELETE", "/v1/messages", None, 403),
    "a hidden query": ("POST", "/v1/messages?a=%2e", {}, 403),
    "another host": ("GET", "http://169.254.169.254/latest", None, 403),
    "a tunnel": ("CONNECT", "example.org:443", None, 403),
    "another model": ("POST", "/v1/messages", asked("x", model="claude-haiku-4"), 403),
    "another model's page": ("GET", "/v1/models/claude-haiku-4", None, 403),
    "another model to count": ("POST", "/v1/messages/count_tokens", asked("x", model="claude-haiku-4"), 403),
    "no model": ("POST", "/v1/messages", {"messages": []}, 403),
    "a model twice": ("POST", "/v1/messages", TWICE, 400),
    "no ceiling": ("POST", "/v1/messages", asked("x", max_tokens=None), 400),
    "a wild ceiling": ("POST", "/v1/messages", asked("x", max_tokens=10**12), 400),
    "no JSON": ("POST", "/v1/messages", b"{", 400),
    "another encoding": ("POST", "/v1/messages", json.dumps(asked("x")).encode("utf-16"), 400),
    "no object": ("POST", "/v1/messages", [], 400),
    "messages of another kind": ("POST", "/v1/messages", asked("x", messages=["x"]), 400),
    "deep JSON": ("POST", "/v1/messages", b"[" * 100_000, 400),
    "dense JSON": ("POST", "/v1/messages", b"[" + b"[]," * 400_000 + b"[]]", 413),
    "many strings": ("POST", "/v1/messages", b"[" + b'"",' * 150_000 + b'""]', 413),
    "a tool at the provider": ("POST", "/v1/messages", asked("x", tools=[FETCH]), 403),
    "a tool of no type": ("POST", "/v1/messages", asked("x", tools=[{"type": 1, "name": "f"}]), 403),
    "servers for the provider": ("POST", "/v1/messages", asked("x", mcp_servers=CALLED), 403),
    "a picture elsewhere": ("POST", "/v1/messages", asked("x", messages=[URL_SOURCE]), 403),
    "an unpriced speed": ("POST", "/v1/messages", asked("x", speed="fast"), 403),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_not_documented_or_not_allowed_is_refused_here(
    doors: Doors, shared: ScriptedApi, case: str
) -> None:
    method, target, body, expected = REFUSED[case]
    before = len(shared.requests())
    async with doors.open(shared) as at, at.knock() as knocker:
        await knocker.begin(method, target, body)
        head = await knocker.event()
        assert isinstance(head, h11.Response)
        content = await knocker.event()
        assert isinstance(content, h11.Data)
        error = json.loads(content.data)
    assert (head.status_code, error["type"]) == (expected, "error"), error
    assert (b"x-should-retry", b"false") in list(head.headers)
    assert set(error["error"]) == {"type", "message"}
    assert len(shared.requests()) == before
    assert at.log.of("system")[0].startswith(f"the door to the model: {expected} ")


async def test_body_has_an_end(doors: Doors, shared: ScriptedApi) -> None:
    async with doors.open(shared) as at, at.knock() as knocker:
        await knocker.say(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n")
        async with trio.open_nursery() as nursery:

            async def pour() -> None:
                with suppress(trio.BrokenResourceError):
                    while True:
                        await knocker.say(b" " * 65536)

            nursery.start_soon(pour)
            head = await knocker.event()
            assert isinstance(head, h11.Response)
            assert head.status_code == 413


async def test_models_that_the_operator_allows_may_be_asked_too(doors: Doors, shared: ScriptedApi) -> None:
    async with doors.open(shared, models=(MODEL, "claude-haiku-*")) as at:
        for model, status in ((MODEL, 200), ("claude-haiku-4", 200), ("claude-sonnet-5", 403)):
            assert (await at.ask("POST", "/v1/messages", asked("x", model=model)))[0] == status


# --- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "retry_after": 3},
        {"status": 529},
        {"status": 500},
        {"kind": "reset"},
        {"kind": "garbage"},
        {"kind": "error", "after": 1},
        {"kind": "cut", "after": 2},
        {"kind": "end", "after": 1},
    ],
    ids=str,
)
async def test_failure_before_the_model_spoke_is_only_a_delay(
    doors: Doors, shared: ScriptedApi, fault: dict[str, object], streams: bool
) -> None:
    prompt = script({"say": "x", "fault": {**fault, "times": 2}}, agent=f"delay-{fault}-{streams}")
    meter = doors.meter()
    async with doors.open(shared, meter=meter) as at:
        status, body = await at.ask("POST", "/v1/messages", asked(prompt, stream=streams))
    assert (status, b"end_turn" in body) == (200, True)
    assert len(meter.failures) == 2
    assert not any(failure.begun for failure in meter.failures)
    assert len(at.turns()) == 1


@pytest.mark.parametrize("kind", ["cut", "reset", "end", "error", "garbage"])
async def test_failure_after_the_model_spoke_is_passed_on_and_paid(
    doors: Doors, shared: ScriptedApi, kind: str
) -> None:
    step = {"say_chars": 6000, "fault": {"kind": kind, "after": 5, "times": 1}, "usage": COUNTED}
    prompt, meter = script(step, agent=f"begun-{kind}"), doors.meter()
    async with doors.open(shared, meter=meter) as at:
        async with at.knock() as knocker:
            await knocker.begin("POST", "/v1/messages", asked(prompt, stream=True))
            with pytest.raises(h11.RemoteProtocolError):
                await knocker.answer()
        assert (await at.ask("POST", "/v1/messages", asked(prompt, stream=True)))[0] == 200
    assert [failure.begun for failure in meter.failures] == [True]
    assert [event.name for event in at.log.events] == ["agent.usage", "agent.turn", "agent.usage"]
    cut, whole = at.usages()
    assert (cut.usage.input_tokens, whole.usage) == (5, SPENT)
    assert 0 < cut.usage.output_tokens <= 2000


async def test_client_is_told_what_is_wrong_with_its_request(doors: Doors, shared: ScriptedApi) -> None:
    prompt = script({"fault": {"status": 400, "message": "prompt is too long"}})
    async with doors.open(shared) as at:
        status, body = await at.ask("POST", "/v1/messages", asked(prompt, stream=True))
        assert (status, json.loads(body)["error"]["message"]) == (400, "prompt is too long")
        at.door.check()


@pytest.mark.parametrize(
    ("settings", "trouble"), [({"keys": ["another"]}, Trouble.LOGIN), ({"models": ["m"]}, Trouble.MODEL)]
)
async def test_agent_ends_where_the_provider_refuses_for_good(
    doors: Doors, settings: dict[str, object], trouble: Trouble
) -> None:
    async def work(api: ScriptedApi) -> None:
        async with doors.open(api) as at:
            for _ in range(2):
                status, body = await at.ask("POST", "/v1/messages", asked("x"))
                assert (status, OURS in body.decode()) == (402, False)

    with scripted_api(**settings) as api, pytest.raises(ProviderRefused, match=trouble.value) as refused:
        await work(api)
    assert OURS not in refused.value.detail
    assert len(api.messages()) == 1, "the second was refused here"


class Poor:
    """A meter whose budget is spent."""

    async def ask(self, request: Request, ask: Callable[[], Awaitable[Answer]], *, prompt: int) -> Answer:
        """See `Meter`."""
        raise BudgetExceeded("0.01 USD are allowed")

    async def check_tools(self, calls: int) -> None:
        """See `Meter`."""

    async def count_tools(self, calls: int, content: str | None = None) -> None:
        """See `Meter`."""


async def test_spent_budget_ends_the_agent(doors: Doors, shared: ScriptedApi) -> None:
    async def work() -> None:
        async with doors.open(shared, meter=Poor()) as at:
            status, body = await at.ask("POST", "/v1/messages", asked("x"))
            assert (status, json.loads(body)["error"]["type"]) == (402, "billing_error")
            raise OSError("the program ended badly, of course")

    with pytest.raises(BudgetExceeded, match=r"0\.01 USD"):
        await work()


async def test_request_with_a_tool_of_unknown_price_is_refused_alone(
    doors: Doors, shared: ScriptedApi
) -> None:
    class Careful(PlainMeter):
        async def ask(self, request: Request, ask: Callable[[], Awaitable[Answer]], *, prompt: int) -> Answer:
            if request.unpriced_tool:
                raise ToolUnpriced(request.unpriced_tool)
            return await super().ask(request, ask, prompt=prompt)

    dear = {"type": "code_execution_20250825", "name": "code_execution"}
    async with doors.open(shared, meter=Careful(IDS, doors.log.record)) as at:
        status, body = await at.ask("POST", "/v1/messages", asked("x", tools=[dear]))
        assert (status, json.loads(body)["error"]["message"]) == (403, dear["type"])
        assert (await at.ask("POST", "/v1/messages", asked("x")))[0] == 200


async def test_agent_that_goes_on_without_a_budget_is_cut(doors: Doors, shared: ScriptedApi) -> None:
    async def work() -> None:
        async with doors.open(shared, meter=Poor(), grace_s=0.01) as at:
            assert (await at.ask("POST", "/v1/messages", asked("x")))[0] == 402
            await trio.sleep_forever()

    with pytest.raises(BudgetExceeded):
        await work()


async def test_error_of_the_agent_itself_passes_the_door(doors: Doors, shared: ScriptedApi) -> None:
    with pytest.raises(OSError, match="own"):
        async with doors.open(shared):
            raise OSError("own")


# --- ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [True, False])
async def test_client_that_leaves_is_followed(doors: Doors, shared: ScriptedApi, streams: bool) -> None:
    agent = f"leaves-{streams}"
    prompt = script(
        {"say_chars": 50_000, "fault": {"kind": "hang", "after": 6}, "usage": COUNTED}, agent=agent
    )
    async with doors.open(shared) as at:
        async with at.knock() as knocker:
            await knocker.begin("POST", "/v1/messages", asked(prompt, stream=streams))
            if streams:
                while not isinstance(await knocker.event(), h11.Data):
                    continue
            else:
                await seen(lambda: shared.messages(agent), "it is asked")
        await seen(lambda: shared.messages(agent)[0].how == "cut by the client", "upstream is closed")
        await seen(at.turns, "what came is counted")
    (turn,) = at.turns()
    assert turn.stop_reason == "client_left"
    spent = turn.usage or SPENT
    assert spent.input_tokens == 5 if streams else spent.input_tokens > 50, (
        "the estimate, where none was told"
    )


async def test_kill_in_the_middle_of_a_stream_closes_both_sides(doors: Doors, shared: ScriptedApi) -> None:
    prompt = script({"say_chars": 50_000, "fault": {"kind": "hang", "after": 6}}, agent="killed")
    with trio.CancelScope() as scope:
        async with doors.open(shared) as at, at.knock() as knocker:
            await knocker.begin("POST", "/v1/messages", asked(prompt, stream=True))
            while not isinstance(await knocker.event(), h11.Data):
                continue
            scope.cancel()
            await trio.sleep_forever()
    await seen(lambda: shared.messages("killed")[0].how == "cut by the client", "upstream is closed")
    assert at.log.events == []


@pytest.mark.parametrize("stream", [True, False])
async def test_request_that_an_end_cuts_off_tells_what_it_cost(
    doors: Doors, shared: ScriptedApi, *, stream: bool
) -> None:
    told: list[Usage | None] = []

    class Cut(PlainMeter):
        async def ask(self, request: Request, ask: Callable[[], Awaitable[Answer]], *, prompt: int) -> Answer:
            assert request.so_far() == Usage()
            try:
                return await super().ask(request, ask, prompt=prompt)
            except trio.Cancelled:
                told.append(request.so_far())
                raise

    name = f"ended-{stream}"
    prompt = script({"fault": {"kind": "hang"}}, agent=name)
    with trio.CancelScope() as scope:
        async with doors.open(shared, meter=Cut(IDS, doors.log.record)) as at, at.knock() as knocker:
            await knocker.begin("POST", "/v1/messages", asked(prompt, stream=stream))
            await seen(lambda: shared.messages(name), "it is asked")
            scope.cancel()
            await trio.sleep_forever()
    (usage,) = told
    assert usage is not None
    assert usage.input_tokens > 0
    assert usage.output_tokens <= 1000


async def test_client_that_leaves_while_the_meter_waits_ends_the_wait(
    doors: Doors, shared: ScriptedApi
) -> None:
    ended = trio.Event()

    class Parked(Poor):
        async def ask(self, request: Request, ask: Callable[[], Awaitable[Answer]], *, prompt: int) -> Answer:
            try:
                return await trio.sleep_forever()
            finally:
                ended.set()

    async with doors.open(shared, meter=Parked()) as at:
        async with at.knock() as knocker:
            await knocker.begin("POST", "/v1/messages", asked("x"))
        await ended.wait()


@pytest.mark.slow
async def test_real_claude_code_works_through_a_socket_of_ours(
    doors: Doors, open_session: OpenSession, reachable_path: Path, backend: Backend, tmp_path: Path
) -> None:
    steps = ({"do": {"run": "echo hi > b"}, "usage": COUNTED}, {"say": "ok", "usage": COUNTED})
    path = reachable_path / "llm"
    with scripted_api(keys=[OURS]) as api, open_socket(path, backend.user) as listener:
        async with doors.open(api) as at:
            at.door.listen_nowait(listener)
            env = {
                "ANTHROPIC_UNIX_SOCKET": str(path),
                "ANTHROPIC_BASE_URL": "http://door",
                "ANTHROPIC_MODEL": MODEL,
            }
            ran = await trio.to_thread.run_sync(lambda: run_claude(api, tmp_path, script(*steps), **env))
    assert (ran.status, ran.result["result"]) == (0, "ok"), ran
    assert (tmp_path / "work/b").read_text() == "hi\n"
    assert [turn.usage for turn in at.turns()] == [SPENT, SPENT]
    assert {request.key for request in api.messages()} == {OURS}


@pytest.mark.slow
async def test_real_claude_code_ends_at_once_where_the_budget_is_spent(
    doors: Doors, shared: ScriptedApi, tmp_path: Path
) -> None:
    async def work() -> None:
        async with doors.open(shared, meter=Poor(), grace_s=60) as at:
            env = {"ANTHROPIC_BASE_URL": at.url, "ANTHROPIC_MODEL": MODEL}
            ran = await trio.to_thread.run_sync(lambda: run_claude(shared, tmp_path, "x", **env))
            assert (ran.status, ran.result["api_error_status"]) == (1, 402)
            assert len(at.log.of("system")) == 1, "it asked once"

    with pytest.raises(BudgetExceeded):
        await work()
