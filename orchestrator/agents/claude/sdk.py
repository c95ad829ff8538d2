"""The Messages API, asked by the `anthropic` SDK: one request, one whole answer, or a `ProviderFailure`.

The SDK is imported by the first agent that needs it: that takes a second, and a thread. It never tries again
by itself, for the meter does. The invariant: the key is in the headers of requests to the provider and
nowhere else, and a request that is cancelled closes its connection. Caller: `runtime`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import trio

from orchestrator.agents.claude.incoming import Incoming, Message
from orchestrator.agents.reaching import unreachable
from orchestrator.agents.upstream import Upstream
from orchestrator.core.model import Usage
from orchestrator.core.trouble import ProviderFailure, Trouble, failure_of_response

#: How long a request may wait for a connection of the SDK's own pool.
POOL_S = 10.0
#: Bytes that are read of an answer that is an error.
MAX_ERROR_BYTES = 64 * 1024


class Sdk:
    """One agent's way to the provider; `aclose` ends it."""

    def __init__(self, upstream: Upstream) -> None:
        """Take where the provider is, and the key, which there must be."""
        self._upstream = upstream
        self._client: Any = None
        self._sdk: Any = None
        self._incoming = Incoming()

    @property
    def spent(self) -> Usage | None:
        """What the last request has cost up to now, as far as the provider told."""
        return self._incoming.spent

    async def open(self) -> None:
        """Make what requests need, so that none is counted as under way meanwhile."""
        await self._open()

    async def ask(self, body: Mapping[str, Any]) -> Message:
        """Make one request and return its whole answer; raises `ProviderFailure`."""
        client = await self._open()
        incoming = self._incoming = Incoming()
        failure = None
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

    async def aclose(self) -> None:
        """Close what connections there are."""
        if self._client is not None:
            await self._client.close()

    async def _open(self) -> Any:  # noqa: ANN401 - the SDK is known once it is imported
        if self._client is None:
            sdk = self._sdk = await trio.to_thread.run_sync(_import_sdk, abandon_on_cancel=True)
            upstream, bear = self._upstream, self._upstream.patience
            patience = sdk.Timeout(
                None, connect=bear.connect_s, read=bear.idle_s, write=bear.send_s, pool=POOL_S
            )
            self._client = sdk.AsyncAnthropic(
                api_key=upstream.key.get_secret_value() if upstream.key is not None else None,
                base_url=upstream.url,
                max_retries=0,
                timeout=patience,
                default_headers={"accept-encoding": "identity"},
                http_client=sdk.DefaultAsyncHttpxClient(
                    timeout=patience, follow_redirects=False, event_hooks={"response": [_check]}
                ),
            )
        return self._client

    def _failure_of(self, error: Exception) -> ProviderFailure:
        """Return what an exception means; one that is no failure of a provider's is raised as it is."""
        if isinstance(known := error.__cause__ or error, ProviderFailure):
            return known
        if isinstance(error, self._sdk.APIConnectionError):
            return unreachable(self._upstream.url, error)
        if type(error).__module__.partition(".")[0] in {"httpx2", "httpcore2", "httpcore"}:
            return unreachable(self._upstream.url, error)
        if isinstance(error, self._sdk.AnthropicError):
            return ProviderFailure(Trouble.REQUEST, f"{type(error).__name__}: {error}"[:500])
        raise error


async def _check(response: Any) -> None:  # noqa: ANN401 - see `_open`
    """Raise what an answer means that is no success; the SDK would read it to its end, and some have none."""
    if not response.is_success:
        body = bytearray()
        with trio.CancelScope() as reading:  # see `ask`
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) >= MAX_ERROR_BYTES:
                    reading.cancel()
        headers = {name.lower(): value for name, value in response.headers.items()}
        said = bytes(body[:MAX_ERROR_BYTES])
        raise failure_of_response(response.status_code, headers, said, datetime.now(UTC))


def _import_sdk() -> ModuleType:
    import anthropic  # noqa: PLC0415 - see the module's text
    from anthropic.resources import messages  # noqa: F401, PLC0415 - else the first request imports it

    return anthropic
