"""The scripted Messages API is real enough for the real SDK, and fails as the real one does."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
import trio

from tests.kit.messages_api import ScriptedApi, script, scripted_api
from tests.kit.until import seen, until

TOOLS: Any = [
    {"type": "bash_20250124", "name": "bash"},
    {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
]
SOON_S = 30.0
AT_ONCE: Any = {"headers": {"retry-after-ms": 1}}


@pytest.fixture(scope="module")
def shared() -> Iterator[ScriptedApi]:
    """One API for all tests that change no settings; each has an agent of its own."""
    with scripted_api() as api:
        yield api


@asynccontextmanager
async def client_of(
    api: ScriptedApi, *, retries: int = 0, **more: object
) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=api.url, api_key="dummy", max_retries=retries, **more
    ) as client:
        yield client


def asked(prompt: str, *more: object) -> dict[str, Any]:
    return {
        "model": "claude-opus-5-5",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": prompt}, *more],
        "tools": TOOLS,
    }


async def streamed(api: ScriptedApi, prompt: str, *more: object, retries: int = 0) -> anthropic.types.Message:
    async with (
        client_of(api, retries=retries) as client,
        client.messages.stream(**asked(prompt, *more)) as stream,
    ):
        return await stream.get_final_message()


async def created(api: ScriptedApi, prompt: str, *more: object, retries: int = 0) -> anthropic.types.Message:
    async with client_of(api, retries=retries) as client:
        return await client.messages.create(**asked(prompt, *more))


Ask = Callable[..., Awaitable[anthropic.types.Message]]
STEPS = (
    {"think": "so", "say": "I write", "do": [{"write": "a.txt", "text": "x"}, {"run": "ls"}]},
    {"say": "done", "usage": {"input_tokens": 5, "output_tokens": 6, "cache_read_input_tokens": 7}},
)


@pytest.mark.parametrize("ask", [streamed, created])
async def test_conversation_goes_by_the_script(shared: ScriptedApi, ask: Ask) -> None:
    prompt = "please " + script(*STEPS, agent=f"talk-{ask.__name__}")
    first = await ask(shared, prompt)
    assert [block.type for block in first.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert first.content[2].input == {"command": "create", "path": "a.txt", "file_text": "x"}
    assert first.stop_reason == "tool_use"
    said = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]}
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "ok"}
        for block in first.content
        if block.type == "tool_use"
    ]
    last = await ask(shared, prompt, said, {"role": "user", "content": results})
    assert (last.content[0].text, last.stop_reason) == ("done", "end_turn")
    assert (last.usage.input_tokens, last.usage.output_tokens, last.usage.cache_read_input_tokens) == (
        5,
        6,
        7,
    )
    seen_by_api = shared.messages(f"talk-{ask.__name__}")
    assert [(request.step, request.messages, request.how) for request in seen_by_api] == [
        (0, 1, "served"),
        (1, 3, "served"),
    ]
    assert {request.key for request in seen_by_api} == {"dummy"}


@pytest.mark.parametrize("reason", ["refusal", "max_tokens", "pause_turn"])
async def test_script_names_the_stop_reason(shared: ScriptedApi, reason: str) -> None:
    assert (await streamed(shared, script({"say": "no", "stop": reason}))).stop_reason == reason


async def test_huge_answer_arrives_whole(shared: ScriptedApi) -> None:
    message = await streamed(shared, script({"say_chars": 500_000}))
    assert len(message.content[0].text) == 500_000


async def test_malformed_input_is_streamed_as_it_is(shared: ScriptedApi) -> None:
    prompt = script({"do": {"run": "ls", "malformed": '{"command": "l'}})
    async with client_of(shared) as client:
        stream = await client.messages.create(**asked(prompt), stream=True)
        pieces = [
            event.delta.partial_json
            async for event in stream
            if event.type == "content_block_delta" and event.delta.type == "input_json_delta"
        ]
    assert "".join(pieces) == '{"command": "l'


async def test_tokens_are_counted_and_models_listed(shared: ScriptedApi) -> None:
    async with client_of(shared) as client:
        counted = await client.messages.count_tokens(
            model="m", messages=[{"role": "user", "content": "x" * 400}]
        )
        models = [model.id async for model in client.models.list()]
        assert (await client.models.retrieve(models[0])).id == models[0]
        with pytest.raises(anthropic.NotFoundError):
            await client.models.retrieve("claude-none")
    assert counted.input_tokens > 100


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (529, anthropic.APIStatusError),
    ],
)
async def test_status_is_the_error_of_the_sdk(
    shared: ScriptedApi, status: int, error: type[anthropic.APIStatusError]
) -> None:
    with pytest.raises(error) as caught:
        await streamed(shared, script(fail_first={"status": status, "retry_after": 3}))
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "3"
    assert caught.value.request_id
    assert "anthropic-ratelimit-requests-reset" in caught.value.response.headers


async def test_reached_limit_tells_when_it_ends(shared: ScriptedApi) -> None:
    with pytest.raises(anthropic.RateLimitError) as caught:
        await streamed(shared, script(fail_first={"limit_resets_at": 4_000_000_000}))
    assert caught.value.response.headers["anthropic-ratelimit-unified-reset"] == "4000000000"


async def test_first_requests_of_an_agent_fail_and_then_it_succeeds(shared: ScriptedApi) -> None:
    prompt = script(
        {"say": "at last"},
        agent="late",
        fail_first={"status": 429, "times": 2, **AT_ONCE},
    )
    assert (await streamed(shared, prompt, retries=2)).content[0].text == "at last"
    assert [request.status for request in shared.messages("late")] == [429, 429, 200]


@pytest.mark.parametrize("after", [None, 4])
@pytest.mark.parametrize("kind", ["reset", "cut", "garbage"])
async def test_connection_is_lost_by_script(shared: ScriptedApi, kind: str, after: int | None) -> None:
    agent = f"{kind}-{after}"
    fault = {"kind": kind} if after is None else {"kind": kind, "after": after}
    with pytest.raises((anthropic.APIConnectionError, httpx2.TransportError)):
        await streamed(shared, script({"say": "a b c", "fault": fault}, agent=agent))
    (request,) = shared.messages(agent)
    assert request.how == f"cut by script: {kind}"
    assert request.events == (after or (3 if kind == "cut" else 0))


async def test_error_event_comes_in_the_stream(shared: ScriptedApi) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        await streamed(
            shared,
            script({"say": "a", "fault": {"kind": "error", "type": "overloaded_error"}}, agent="midway"),
        )
    assert "overloaded_error" in str(caught.value.body)
    assert [request.how for request in shared.messages("midway")] == ["cut by script: error"]


async def test_stream_can_end_before_its_last_events(shared: ScriptedApi) -> None:
    async with client_of(shared) as client:
        stream = await client.messages.create(
            **asked(script({"say": "a", "fault": {"kind": "end", "after": 4}})), stream=True
        )
        assert "message_stop" not in [event.type async for event in stream]


async def test_client_that_leaves_is_noted_with_the_moment(shared: ScriptedApi) -> None:
    body = asked(script({"say": "a", "fault": {"kind": "hang", "after": 3}}, agent="leaver"))
    headers = {"x-api-key": "dummy", "anthropic-version": "2023-06-01"}
    url = f"{shared.url}/v1/messages"
    async with (
        httpx2.AsyncClient() as client,
        client.stream("POST", url, json={**body, "stream": True}, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        assert [(known.status, known.how) for known in shared.messages("leaver")] == [(200, "unfinished")]

    def ends() -> list[str]:
        return [request.how for request in shared.messages("leaver") if request.seconds is not None]

    await seen(ends, "the API sees the client leave", SOON_S)
    assert ends() == ["cut by the client"]


async def test_stream_comes_in_pieces(shared: ScriptedApi) -> None:
    prompt = script({"say": "slowly", "wait_s": 0.01, "pause_s": 0.0001, "dribble_bytes": 40}, agent="slow")
    assert (await streamed(shared, prompt)).content[0].text == "slowly"


async def test_bad_scripts_and_requests_are_told_to_the_client(shared: ScriptedApi) -> None:
    with pytest.raises(anthropic.BadRequestError, match="script: no script is called"):
        await streamed(shared, '<<script "none" >>')
    call = {"type": "tool_use", "id": "t", "name": "bash", "input": {}}
    said = {"role": "assistant", "content": [call]}
    with pytest.raises(anthropic.BadRequestError, match="without `tool_result`"):
        await streamed(shared, "x", said, {"role": "user", "content": "y"})
    with pytest.raises(anthropic.BadRequestError, match="wrong shape"):
        await streamed(shared, script({"wait_s": "late"}))


def test_bytes_that_are_no_http_end_their_connection_alone(shared: ScriptedApi) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=SOON_S) as stranger:
        stranger.sendall(b"\0\1\2\r\n\r\n")
        assert stranger.recv(1) == b""
    answer = httpx2.post(f"{shared.url}/v1/messages", content=b"{", headers={"x-api-key": "k"})
    assert (answer.status_code, answer.json()["type"]) == (400, "error")
    assert httpx2.get(f"{shared.url}/v1/messages").status_code == 401
    assert httpx2.head(shared.url).status_code == 200


async def test_requests_at_once_are_counted_and_refused_beyond_the_ceiling() -> None:
    with scripted_api(ceiling=3) as api:
        async with client_of(api) as client, trio.open_nursery() as asking:

            async def ask(number: int) -> None:
                await client.messages.create(
                    **asked(script({"say": "x", "fault": {"kind": "hang"}}, agent=f"a-{number}"))
                )

            for number in range(3):
                asking.start_soon(ask, number)
            await seen(lambda: len(api.messages()) == 3, "three requests are there", SOON_S)
            with pytest.raises(anthropic.RateLimitError):
                await created(api, script({"say": "x"}, agent="fourth"))
            asking.cancel_scope.cancel()
        assert api.most_at_once() == 4
        assert api.arrivals() == sorted(api.arrivals())
        assert api.arrivals()[0] <= time.monotonic()


async def test_settings_change_while_it_runs_and_the_log_outlives_it() -> None:
    with scripted_api(keys=["good"], script={"steps": [{"say": "by default"}]}, keep_bodies=True) as api:
        with pytest.raises(anthropic.AuthenticationError):
            await created(api, "x")
        api.change(keys=["dummy"], fault={"status": 529, "times": 1, **AT_ONCE})
        assert (await created(api, "x", retries=1)).content[0].text == "by default"
        api.change(storm={"seed": 1, "faults": [{"p": 1, "status": 500, **AT_ONCE}], "most_in_a_row": 1})
        assert (await created(api, "x", retries=1)).content[0].text == "by default"
    assert [request.status for request in api.messages()] == [401, 529, 200, 500, 200]
    assert api.messages()[0].body["messages"][0]["content"] == "x"


async def test_it_starts_again_on_its_port_after_a_crash() -> None:
    with scripted_api() as api:
        port = api.port
        api.kill()
        with pytest.raises(anthropic.APIConnectionError):
            await created(api, "x")
        api.start()
        assert api.port == port
        assert (await created(api, script({"say": "back"}))).content[0].text == "back"


async def test_it_speaks_tls_and_on_a_unix_socket(reachable_path: Path) -> None:
    with scripted_api(tls=True) as api:
        trusted = ssl.create_default_context(cafile=str(api.ca))
        http = anthropic.DefaultAsyncHttpxClient(verify=trusted)
        async with client_of(api, http_client=http) as client:
            message = await client.messages.create(**asked(script({"say": "secret"})))
        with pytest.raises(anthropic.APIConnectionError):
            await created(api, "x")  # by a client that does not trust it
    assert message.content[0].text == "secret"
    with scripted_api(unix=reachable_path / "llm.sock") as api:
        http = anthropic.DefaultAsyncHttpxClient(transport=httpx2.AsyncHTTPTransport(uds=str(api.socket)))
        async with client_of(api, http_client=http) as client:
            message = await client.messages.create(**asked(script({"say": "near"})))
    assert message.content[0].text == "near"


def test_program_ends_with_who_started_it() -> None:
    with scripted_api() as api:
        process = api.process
        assert process.stdin is not None
        process.stdin.close()
        until(lambda: process.poll() is not None, "the program ends", SOON_S)
        assert process.returncode == 0


def test_log_is_one_json_line_for_each_beginning_and_end(shared: ScriptedApi) -> None:
    before = len(shared.requests())
    httpx2.head(shared.url)
    until(lambda: len(shared.requests()) > before, "the request is logged", SOON_S)
    assert all("number" in json.loads(line) for line in shared.log.read_text().splitlines())
