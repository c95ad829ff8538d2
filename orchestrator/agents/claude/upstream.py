"""The Messages API, asked by the `anthropic` SDK: one request, one whole answer, or a `ProviderFailure`.

The SDK is imported by the first agent that needs it: that takes a second, and a thread. It never tries again
by itself, for the meter does. The invariant: the key is in the headers of requests to the provider and
nowhere else, and a request that is cancelled closes its connection. Caller: `runtime`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, get_args

import trio
from pydantic import SecretStr

from orchestrator.agents.claude.incoming import Incoming, Message
from orchestrator.agents.reaching import PROVIDER_URL, unreachable
from orchestrator.core.trouble import ProviderFailure, Trouble, failure_of_response

#: A provider that is not there is told within five seconds; one that works sends something all the time.
CONNECT_S = 4.5
READ_S = 120.0
WRITE_S = 60.0
POOL_S = 10.0


class Upstream:
    """One agent's way to the provider; `aclose` ends it."""

    def __init__(self, key: SecretStr, base_url: str | None) -> None:
        self._key = key
        self._base_url = base_url or PROVIDER_URL
        self._client: Any = None
        self._sdk: Any = None

    async def ask(self, body: Mapping[str, Any]) -> Message:
        """Make one request and return its whole answer; raises `ProviderFailure`."""
        client = await self._open()
        incoming, failure = Incoming(), None
        try:
            # By a cancellation alone its generators let go of the stream; leaving the loop would not do.
            with trio.CancelScope() as reading:
                async with client.messages.with_streaming_response.create(**body, stream=True) as response:
                    async for chunk in response.iter_bytes():
                        if failure is None and (failure := incoming.feed(chunk)):
                            reading.cancel()
        except Exception as error:  # the SDK's family, httpx2's, and what neither of them wraps
            failure = failure or self._failure_of(error)
        if failure is not None:
            failure.usage = incoming.spent
            raise failure
        return incoming.message()

    async def newest_sonnet(self) -> str:
        """Return the newest Sonnet that the SDK knows."""
        await self._open()
        return newest_sonnet(self._sdk.types.model.Model)

    async def aclose(self) -> None:
        """Close what connections there are."""
        if self._client is not None:
            await self._client.close()

    async def _open(self) -> Any:  # noqa: ANN401 - the SDK is known once it is imported
        if self._client is None:
            sdk = self._sdk = await trio.to_thread.run_sync(_import_sdk, abandon_on_cancel=True)
            from orchestrator.agents.claude.refusal import cut_short  # noqa: PLC0415 - loads what the SDK does

            patience = sdk.Timeout(None, connect=CONNECT_S, read=READ_S, write=WRITE_S, pool=POOL_S)
            self._client = sdk.AsyncAnthropic(
                api_key=self._key.get_secret_value(),
                base_url=self._base_url,
                max_retries=0,
                timeout=patience,
                default_headers={"accept-encoding": "identity"},
                http_client=sdk.DefaultAsyncHttpxClient(
                    timeout=patience, follow_redirects=False, event_hooks={"response": [cut_short]}
                ),
            )
        return self._client

    def _failure_of(self, error: Exception) -> ProviderFailure:
        """Return what an exception means; one that is no failure of a provider's is raised as it is."""
        if isinstance(error, self._sdk.APIStatusError):
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            return failure_of_response(error.status_code, headers, _body_of(error), datetime.now(UTC))
        if isinstance(error, self._sdk.APIConnectionError):
            return unreachable(self._base_url, error)
        if type(error).__module__.partition(".")[0] in {"httpx2", "httpcore2", "httpcore"}:
            return unreachable(self._base_url, error)
        if isinstance(error, self._sdk.AnthropicError):
            return ProviderFailure(Trouble.REQUEST, f"{type(error).__name__}: {error}"[:500])
        raise error


def _body_of(error: Any) -> bytes:  # noqa: ANN401 - see `_open`
    try:
        return bytes(error.response.content)
    except Exception:  # it was not read to its end: the status says enough
        return b""


def _import_sdk() -> ModuleType:
    import anthropic  # noqa: PLC0415 - see the module's text
    import anthropic.types.model  # noqa: PLC0415
    from anthropic.resources import messages  # noqa: F401, PLC0415 - else the first request imports it

    return anthropic


def newest_sonnet(models: object) -> str:
    """Return the newest Sonnet of the SDK's type of model names, by its version."""
    names = [name for part in get_args(models) for name in get_args(part)]
    versions = {name: re.fullmatch(r"claude-sonnet-(\d{1,3}(?:-\d{1,3})*)", str(name)) for name in names}
    numbers = {
        str(name): [int(part) for part in found[1].split("-")] for name, found in versions.items() if found
    }
    return max(numbers, key=numbers.__getitem__)
