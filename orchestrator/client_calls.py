"""How the client asks: one call after the other, repeated where that is safe. Called by `client_queue`."""

from __future__ import annotations

import uuid

from orchestrator.client_http import Address, Broken, Response, ask
from orchestrator.client_stream import Query, Unreachable, pause, plain, refusal

#: How often a call that is safe to repeat is tried.
TRIES = 4
#: Refusals that pass by themselves in a moment; whether to wait for a thaw or a shorter queue is the
#: caller's affair.
PASSING = frozenset({"rate_limited", "idempotency_in_flight", "idempotency_key_in_use"})
#: What a proxy in between answers.
GATEWAY = frozenset({502, 504})


class Caller:
    """Asks at one address."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s

    async def _get(self, path: str, query: Query | None = None) -> bytes:
        return (await self._call("GET", path, query or {}, None, {}, tries=TRIES)).content

    async def _post(self, path: str, query: Query | None = None) -> bytes:
        return (await self._call("POST", path, query or {}, None, {}, tries=1)).content

    async def _create(self, path: str, body: bytes | None, key: str | None) -> bytes:
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return (await self._call("POST", path, {}, body, headers, tries=TRIES)).content

    async def _call(
        self, method: str, path: str, query: Query, body: bytes | None, headers: dict[str, str], *, tries: int
    ) -> Response:
        """Ask, as often as `tries` says while that may help, and return the answer or raise the refusal."""
        attempt = 1
        while True:
            try:
                response = await self._ask(method, path, query, body, headers)
            except Unreachable:
                if attempt == tries:
                    raise
                wait_s = 0.0
            else:
                if response.status < 400:
                    return response
                error = refusal(response)
                if attempt == tries or not (error.code in PASSING or error.status in GATEWAY):
                    raise error
                wait_s = error.retry_after_s
            await pause(attempt, wait_s)
            attempt += 1

    async def _ask(
        self, method: str, path: str, query: Query, body: bytes | None, headers: dict[str, str]
    ) -> Response:
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
        target = self._address.target(path, plain(query))
        try:
            return await ask(
                self._address, method, target, headers, body=body or b"", timeout_s=self._timeout_s
            )
        except Broken as error:
            detail = f"{self._address.url} does not answer: {error}"
            raise Unreachable(detail, nobody_listens=error.refused) from error
