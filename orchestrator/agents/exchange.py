"""One request for a message: asked of the provider as often as the meter says, passed on as it comes.

The invariant: what a client could act upon (the end of a tool call, the end of the answer) stays here until
the meter has journaled the turn; all before that goes on at once. Nothing is sent to the client before the
model says something, so that until then a failure can be tried again unseen. Caller: `proxy`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

import trio

from orchestrator.agents.asked import Wanted, content_of
from orchestrator.agents.base import Answer
from orchestrator.agents.inbound import ClientLeft, Inbound
from orchestrator.agents.upstream import Answer as Reply
from orchestrator.core import sse
from orchestrator.core.message import Message
from orchestrator.core.model import NO_USAGE, Usage
from orchestrator.core.trouble import ProviderFailure, Trouble, failure_of_event, failure_of_response

#: Bytes of an answer, and of one that is an error.
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
#: Blocks that a client only shows, or that were acted upon at the provider.
_HARMLESS = {"text", "thinking", "redacted_thinking", "server_tool_use"}
#: The headers of an answer that its client sees: nothing about the account.
_SHOWN = {"content-type", "request-id", "retry-after", "x-should-retry"}

#: Tokens that no model says more of in a second: of an answer that is no stream nothing else is known.
_MOST_TOKENS_A_S = 500

LEFT = "client_left"


def shown_of(reply: Reply) -> dict[str, str]:
    """Return the headers of the provider's answer that a client sees."""
    return {name: value for name, value in reply.headers.items() if name in _SHOWN}


class Exchange:
    """See the module."""

    def __init__(
        self,
        reply: Callable[[Callable[[], None]], AbstractAsyncContextManager[Reply]],
        inbound: Inbound,
        wanted: Wanted,
    ) -> None:
        """Take the way to ask the provider, which tells when it did, the client, and what it wants."""
        self._reply = reply
        self._inbound = inbound
        self._wanted = wanted
        #: The last failure, and the answer that told it, if there was one.
        self.failure: ProviderFailure | None = None
        self.refusal: tuple[int, dict[str, str], bytes] | None = None
        #: Whether the client has gone; whether the whole answer is here.
        self.left = False
        self.answered = False
        self._asking: trio.CancelScope | None = None
        self._message = Message()
        self._shown: dict[str, str] = {}
        self._held = bytearray()
        self._whole = b""
        self._closing = self._sent = False
        self._began = 0.0

    @property
    def begun(self) -> bool:
        """Whether the client has a part of the answer."""
        return self._inbound.begun

    def leave(self) -> bool:
        """Give up, as the client has gone; return whether the exchange ends by itself now, or has."""
        self.left = True
        if self._asking is not None:
            self._asking.cancel()
        return self._asking is not None or self.answered

    async def ask(self) -> Answer:
        """Ask once; raises `ProviderFailure`. Where the client leaves meanwhile, what came is the answer."""
        began = self._began = trio.current_time()
        self._message, self.failure, self.refusal = Message(), None, None
        self._closing = self._sent = False
        self._held.clear()
        self._asking = trio.CancelScope()
        try:
            with self._asking:
                await self._receive()
        except ClientLeft:
            self.left = True
        except ProviderFailure as failure:
            spent = self._message.spent
            failure.begun, failure.usage = self.begun, None if spent == NO_USAGE else spent
            failure.of_program = True
            self.failure = failure
            raise
        finally:
            self._asking = None
        self.answered = True
        said = self._message
        return Answer(
            model=said.model or self._wanted.request.model,
            stop_reason=LEFT if self.left and not said.complete else said.stop_reason,
            usage=self.so_far() if self.left else said.spent,
            text=said.text,
            duration_ms=(trio.current_time() - began) * 1000,
            content=content_of(self._wanted.news, said.content),
        )

    def so_far(self) -> Usage:
        """Return what it has cost: the prompt at least, where the provider has told nothing yet."""
        if self._message.model or not self._sent:
            return self._message.spent
        asked = self._wanted.request
        most = int((trio.current_time() - self._began) * _MOST_TOKENS_A_S)
        words = 0 if self._wanted.stream else min(asked.max_tokens, most)
        return Usage(input_tokens=asked.input_tokens, output_tokens=words)

    def _note_sent(self) -> None:
        self._sent = True

    async def finish(self) -> None:
        """Pass on what was held back, now that the turn is journaled; raises `ClientLeft`."""
        if self.left:
            raise ClientLeft
        if not self._wanted.stream:
            await self._inbound.whole(200, self._whole, self._shown)
            return
        await self._release()
        await self._inbound.end()

    async def _receive(self) -> None:
        async with self._reply(self._note_sent) as reply:
            self._shown = shown_of(reply)
            if reply.status != 200:
                said = await reply.body(MAX_ERROR_BYTES)
                self.refusal = (reply.status, self._shown, said)
                raise failure_of_response(reply.status, reply.headers, said, datetime.now(UTC))
            try:
                await (self._take_stream(reply) if self._wanted.stream else self._take_whole(reply))
            except (ValueError, RecursionError) as error:
                raise ProviderFailure(Trouble.SERVER_ERROR, f"the provider sent garbage: {error}") from error

    async def _take_whole(self, reply: Reply) -> None:
        self._whole = await reply.body(MAX_ANSWER_BYTES)
        self._message = Message.of_body(self._whole)

    async def _take_stream(self, reply: Reply) -> None:
        decoder, size = sse.Decoder(), 0
        while chunk := await reply.chunk():
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise ProviderFailure(
                    Trouble.SERVER_ERROR, f"an answer of more than {MAX_ANSWER_BYTES} bytes"
                )
            for frame in decoder.feed(chunk):
                await self._take(frame.event, reply.hide(frame.data.encode("utf-8", "replace")))
        if not self._message.complete:
            raise ProviderFailure(Trouble.NETWORK, "the stream ended before the answer did")

    async def _take(self, name: str, data: bytes) -> None:
        """Take in one event, and pass on what may be."""
        event = json.loads(data)
        if not isinstance(event, dict):
            raise ValueError("an event that is no object")
        kind = str(event.get("type"))
        if kind == "error":
            raise failure_of_event(event.get("error"))
        closed = self._message.add(event)
        frame = sse.encode(data.replace(b"\n", b" ").replace(b"\r", b" "), event=name.replace("\r", " "))
        if kind == "ping":
            if self.begun:
                await self._inbound.part(frame)
            return
        self._held += frame
        self._closing |= kind in {"message_delta", "message_stop"} or (
            closed is not None and closed not in _HARMLESS
        )
        if not self._closing and kind in {"content_block_start", "content_block_delta"}:
            await self._release()

    async def _release(self) -> None:
        if not self.begun:
            await self._inbound.head(200, {"content-type": "text/event-stream", **self._shown})
        if self._held:
            held = bytes(self._held)
            self._held.clear()
            await self._inbound.part(held)
