"""The client's streams: events and log lines, as iterators that know where they stand.

A broken connection is taken up again at the cursor, so that nothing is lost or seen twice; what the server
itself dropped comes as `{"gap": {"from", "to"}}`. Opened by `orchestrator.client`, which closes what its
callers leave open.
"""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any, Self

import trio
from pydantic import ValidationError

from orchestrator.client_http import Address, Answer, Broken, Response, open_answer
from orchestrator.core.answer import Problem
from orchestrator.core.sse import Decoder
from orchestrator.errors import OrchestratorError

#: Connections that may fail in a row before a stream gives up.
TRIES = 5
BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
#: The server sends a comment every 15 s, so a longer silence is a dead connection.
SILENCE_S = 45.0
#: The longest that a server can make us wait before the next try.
MAX_WAIT_S = 30.0
MAX_LINE = 4 * 1024 * 1024

Query = Mapping[str, str | int | bool | None]
#: A JSON object as the API sent it (`core.answer` describes them): what a newer server adds is kept.
Json = dict[str, Any]


class ClientError(OrchestratorError):
    """The supervisor refused the call."""

    def __init__(self, problem: Problem, retry_after_s: float = 0.0) -> None:
        fields = "".join(
            f"; {trouble.field}: {trouble.message}"
            for trouble in problem.errors
            if trouble.message not in problem.detail  # it says some itself
        )
        super().__init__(problem.detail + fields)
        self.problem = problem
        self.code = problem.code
        self.status = problem.status
        self.errors = problem.errors
        self.retry_after_s = retry_after_s
        self.retryable = problem.status in {429, 502, 503, 504}


class Unreachable(OrchestratorError):
    """The supervisor cannot be reached, or went away in the middle."""

    code = "unreachable"
    status = 0
    retryable = True

    def __init__(self, detail: str = "", *, nobody_listens: bool = False) -> None:
        super().__init__(detail)
        self.nobody_listens = nobody_listens


def plain(query: Query) -> dict[str, str]:
    """Return a query as strings, without what is unset."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in query.items()
        if value is not None
    }


def refusal(response: Response) -> ClientError:
    """Return the error that a response means."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        problem = Problem(
            type="about:blank",
            title="An answer without a problem document",
            status=response.status,
            code="http_error",
            detail=f"the answer was {response.status}, without a problem document",
        )
    return ClientError(problem, retry_after_s(response))


def retry_after_s(response: Response) -> float:
    """Return the seconds that the server asks to wait, 0 where it does not ask."""
    value = response.headers.get("retry-after", "")
    return min(float(value), MAX_WAIT_S) if value.isdecimal() and len(value) < 6 else 0.0


async def pause(attempt: int, at_least_s: float = 0.0) -> None:
    """Wait before the next try: exponential, capped, with jitter, and as long as the server asks for."""
    backoff_s = min(MAX_BACKOFF_S, BACKOFF_S * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
    await trio.sleep(max(backoff_s, at_least_s))


class Stream(ABC):
    """Items from a long answer; `cursor` is the `after` that the next connection asks for."""

    accept = "application/json"

    def __init__(
        self, address: Address, path: str, cursor: int | None, query: Query, *, follow: bool
    ) -> None:
        self._address = address
        self._path = path
        self._query = query
        self._follow = follow
        self._answer: Answer | None = None
        self._ready: deque[Json] = deque()
        self._over = False
        self.cursor = cursor

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.close_nowait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Json:
        failures = 0
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            try:
                await self._fill()
            except Broken as error:
                self.close_nowait()
                failures += 1
                if failures >= TRIES:
                    raise Unreachable(
                        f"{self._address.url}: the stream broke: {error}", nobody_listens=error.refused
                    ) from error
                await pause(failures)
            except trio.TooSlowError:
                # The silence may be the agent's own; asking again from the cursor loses nothing.
                self.close_nowait()
        return self._ready.popleft()

    async def _fill(self) -> None:
        """Wait for the next piece and take the items out of it."""
        answer = self._answer or await self._connect()
        with trio.fail_after(SILENCE_S):
            piece = await answer.read_some()
        if piece:
            self._ready.extend(self.take(piece))
            return
        self.close_nowait()
        self._over = self.ended_well()
        if not self._over:
            raise Broken("the supervisor ended it")

    async def _connect(self) -> Answer:
        query = plain({**self._query, "follow": self._follow, "after": self.cursor})
        target = self._address.target(self._path, query)
        answer = await open_answer(self._address, target, {"Accept": self.accept})
        if answer.status != 200:
            try:
                raise refusal(await answer.read_all())
            finally:
                answer.close_nowait()
        self._answer = answer
        return answer

    def ended_well(self) -> bool:
        """Return whether the end of the answer is the end of the items."""
        return not self._follow

    @abstractmethod
    def take(self, chunk: bytes) -> list[Json]:
        """Return the items that are complete now."""

    async def aclose(self) -> None:
        """Close the connection."""
        self.close_nowait()

    def close_nowait(self) -> None:
        """Close the connection."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close_nowait()


class EventStream(Stream):
    """Events over SSE."""

    accept = "text/event-stream"

    def __init__(
        self, address: Address, path: str, cursor: int | None, query: Query, *, follow: bool
    ) -> None:
        super().__init__(address, path, cursor, query, follow=follow)
        self._decoder = Decoder()

    async def _connect(self) -> Answer:
        self._decoder = Decoder()  # half a frame of the last connection is not continued by this one
        return await super()._connect()

    def take(self, chunk: bytes) -> list[Json]:
        """Return the events that are complete now, and move the cursor past them."""
        items: list[Json] = []
        for frame in self._decoder.feed(chunk):
            if frame.id is not None and frame.id.isdecimal():
                self.cursor = int(frame.id)
            if frame.data:
                items.append(json.loads(frame.data))
        return items


class LogLines(Stream):
    """Log lines over NDJSON; a followed log ends by itself once the agent has ended."""

    accept = "application/x-ndjson"

    def __init__(
        self, address: Address, path: str, cursor: int | None, query: Query, *, follow: bool
    ) -> None:
        super().__init__(address, path, cursor, query, follow=follow)
        self._rest = b""

    async def _connect(self) -> Answer:
        self._rest = b""
        return await super()._connect()

    def ended_well(self) -> bool:
        """Return true: a log that breaks off ends without its last chunk, which is an error."""
        return True

    def take(self, chunk: bytes) -> list[Json]:
        """Return the lines that are complete now, and move the cursor past them."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise Unreachable(f"a log line of more than {MAX_LINE} bytes")
        items = [json.loads(line) for line in lines if line]
        if items:
            self.cursor = items[-1]["seq"]
        return items
