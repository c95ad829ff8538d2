"""The least that asks a model: one request a turn over HTTP, and a runtime that does nothing else.

For what all runtimes have in common: the line to the provider, budgets, parking, going on after a cut.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx2

from orchestrator.agents.base import Answer, Prompt, Request, Session, TurnResult, Turns
from orchestrator.core.model import NO_USAGE, Usage
from orchestrator.core.spec import TaskSpec
from orchestrator.core.trouble import ProviderFailure, Trouble, failure_of_response
from sandbox.base import Spec
from sandbox.relay import relay

MODEL = "claude-sonnet-5-5"
MAX_TOKENS = 1000
VERSION = "2023-06-01"


async def ask_api(
    client: httpx2.AsyncClient, messages: list[dict[str, Any]], *, model: str = MODEL, key: str = "dummy"
) -> Answer:
    """Make one request; raises `ProviderFailure` however it fails."""
    began = time.monotonic()
    body = {"model": model, "max_tokens": MAX_TOKENS, "messages": messages}
    try:
        said = await client.post(
            "/v1/messages", json=body, headers={"x-api-key": key, "anthropic-version": VERSION}
        )
    except httpx2.TransportError as error:
        raise ProviderFailure(Trouble.NETWORK, f"{type(error).__name__}: {error}") from error
    headers = {name.lower(): value for name, value in said.headers.items()}
    if said.status_code != 200:
        raise failure_of_response(said.status_code, headers, said.content, datetime.now(UTC))
    try:
        answer = said.json()
    except ValueError as error:
        raise ProviderFailure(Trouble.NETWORK, f"no JSON: {error}") from error
    used = answer["usage"]
    usage = Usage(input_tokens=used["input_tokens"], output_tokens=used["output_tokens"])
    content = json.dumps([*messages[-1:], {"role": "assistant", "content": answer["content"]}])
    text = "".join(block.get("text", "") for block in answer["content"])
    return Answer(
        model, answer["stop_reason"], usage, text, (time.monotonic() - began) * 1000, content=content
    )


class AskingRuntime:
    """Runs `options.command` once, then asks until the model says that it is done."""

    name = "asking"

    def __init__(self, url: str) -> None:
        self.url = url

    def check(self, spec: TaskSpec) -> None:
        """Take any task."""

    def open(self, session: Session) -> AbstractAsyncContextManager[Turns]:
        """Begin a conversation, or go on with the one that is remembered."""
        return self._open(session)

    @asynccontextmanager
    async def _open(self, session: Session) -> AsyncGenerator[Turns, None]:
        async with httpx2.AsyncClient(base_url=self.url, timeout=30) as client:
            yield AskingTurns(session, client)


class AskingTurns:
    """See `agents.base.Turns`."""

    def __init__(self, session: Session, client: httpx2.AsyncClient) -> None:
        self._session, self._client = session, client

    async def turn(self, prompt: Prompt) -> TurnResult:
        """Ask until the model says that it is done."""
        session, said = self._session, list[dict[str, Any]]()
        for content in await session.recall():
            said += json.loads(content)
        if not said:
            await self._run_command()
            said.append({"role": "user", "content": prompt.text})
        await session.started()
        model = session.spec.options.model or MODEL
        while not _is_done(said[-1]):
            if said[-1]["role"] == "assistant":
                said.append({"role": "user", "content": "go on"})
            request = Request(model, len(json.dumps(said)), MAX_TOKENS)
            ask = partial(ask_api, self._client, said, model=model)
            answer = await session.meter.ask(request, ask, prompt=prompt.number)
            said += json.loads(answer.content or "[]")[-1:]
        return TurnResult(True, "end_turn", None, "", NO_USAGE, 0.0, metered=True)

    async def _run_command(self) -> None:
        session = self._session
        spec = Spec(
            label=session.agent_id,
            command=session.spec.options.command or ("true",),
            workspace=session.workspace,
            binds=session.binds,
            limits=session.limits,
        )
        async with session.backend.open(spec) as sandbox:
            await relay(sandbox, stdin=b"", on_stdout=_ignore, on_stderr=_ignore)


def _is_done(message: dict[str, Any]) -> bool:
    return message["role"] == "assistant" and message["content"][0].get("text") == "done"


async def _ignore(_chunk: bytes) -> None: ...
