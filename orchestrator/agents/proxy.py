"""The door to the model: the only way from an agent's sandbox to its provider, and who pays for what goes by.

A program inside speaks the Messages API to a socket of ours as if that were the provider. The door knows the
agent by the socket, takes off whatever credential comes with a request and puts ours on, lets through what
the provider documents and the agent may use, and has each request for a message go through the agent's meter.

The invariant: no key is ever inside; what goes by is in the journal before the agent can act upon it; and
when the block of `open_door` is left, no connection of it is open, on either side. Callers: the runtimes
whose programs speak to a provider by themselves.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import trio

from orchestrator.agents.asked import (
    MAX_BODY_BYTES,
    Refused,
    Way,
    find_way,
    read_body,
    shown_headers,
)
from orchestrator.agents.base import Request, Session, ToolUnpriced
from orchestrator.agents.exchange import MAX_ANSWER_BYTES, Exchange, shown_of
from orchestrator.agents.inbound import Asked, ClientLeft, Inbound, Unreadable
from orchestrator.agents.serving import Server, watched
from orchestrator.agents.upstream import Pool, Upstream
from orchestrator.core.trouble import ProviderFailure, Trouble
from orchestrator.errors import (
    BudgetExceeded,
    OrchestratorError,
    ProviderRefused,
    ProviderUnavailable,
)

#: Bytes of requests of one agent that are held at once.
MAX_HELD_BYTES = 2 * MAX_BODY_BYTES
#: How long an agent that was told that it is over may take to end by itself.
GRACE_S = 5.0
#: Refusals that are told in an agent's log.
MAX_TOLD = 50
#: What costs nothing (counts of tokens, lists of models) is passed on so often at once, then once in so long,
#: and so many at a time: the account's limits for these are everybody's.
FREE_BURST, FREE_EVERY_S, FREE_AT_ONCE = 60, 1.0, 4
#: A status that Claude Code takes as final, without a retry (400 it asks twice more, 401 ten times).
OVER = 402
_FINAL = {"content-type": "application/json", "x-should-retry": "false"}


class Door(Server):
    """One agent's door; made by `open_door`."""

    def __init__(self, session: Session, pool: Pool, models: Sequence[str], nursery: trio.Nursery) -> None:
        super().__init__(session.backend.clock, nursery)
        self._session = session
        self._models = tuple(models)
        self._pool = pool
        #: The number of the prompt that is being answered: the runtime's to set, before each turn.
        self.prompt = 1
        #: Why the agent may go on no more, once it may not.
        self.failure: OrchestratorError | None = None
        self.failed = trio.Event()
        self._held = 0
        self._told = 0
        self._free = trio.CapacityLimiter(FREE_AT_ONCE)
        #: Up to when what costs nothing has had its turn.
        self._free_until = -math.inf

    def check(self) -> None:
        """Raise why the agent may go on no more, if it may not: to be called after each turn."""
        if self.failure is not None:
            raise self.failure

    def fail(self, error: OrchestratorError) -> None:
        """End the agent, soon: the first reason counts."""
        if self.failure is None:
            self.failure = error
            self.failed.set()

    async def refuse(self, inbound: Inbound, error: Unreadable) -> None:
        """See `Server`."""
        await self._refuse(inbound, Refused(error.status, "invalid_request_error", str(error)))

    async def answer(self, inbound: Inbound, asked: Asked) -> bool:
        """See `Server`."""
        held = 0

        def take(size: int) -> bool:
            nonlocal held
            held += size
            self._held += size
            return self._held <= MAX_HELD_BYTES

        try:
            way = find_way(asked.method, asked.target, self._models)
            body = await inbound.body(MAX_BODY_BYTES, take)
            if way is Way.PROBE:
                await inbound.whole(200, b"", {})
            elif self.failure is not None:
                raise _over(self.failure)
            elif way is Way.MESSAGES:
                return await self._message(inbound, asked, body)
            else:
                if way is Way.COUNT:
                    read_body(body, self._models, counts=True)
                return await watched(inbound, partial(self._pass_on, inbound, asked, body))
        except Refused as refused:
            return await self._refuse(inbound, refused)
        finally:
            self._held -= held
        return True

    async def _refuse(self, inbound: Inbound, refused: Refused) -> bool:
        """Answer by ourselves; return whether the connection can go on."""
        if self._told < MAX_TOLD:
            self._told += 1
            await self._session.output("system", f"the door to the model: {refused.status} {refused.message}")
        if not inbound.begun:
            with suppress(ClientLeft):
                await inbound.whole(refused.status, refused.body, _FINAL)
                return True
        return False

    async def _message(self, inbound: Inbound, asked: Asked, body: bytes) -> bool:
        """Have a request for a message go through the meter; return whether the connection can go on."""
        wanted = read_body(body, self._models)
        headers = shown_headers(asked.headers)
        reply = partial(self._pool.ask, asked.method, asked.target, headers, body)
        exchange = Exchange(reply, inbound, wanted)
        request = replace(wanted.request, so_far=exchange.so_far)
        return await watched(inbound, partial(self._metered, inbound, exchange, request), exchange.leave)

    async def _metered(self, inbound: Inbound, exchange: Exchange, request: Request) -> bool:
        try:
            await self._session.meter.ask(request, exchange.ask, prompt=self.prompt)
        except (ProviderFailure, ProviderUnavailable) as error:
            return await self._failed(inbound, exchange, error, own=request.model == self._models[0])
        except ToolUnpriced as error:  # of this request alone
            return await self._refuse(inbound, Refused(403, "permission_error", error.detail))
        except OrchestratorError as error:  # a budget, or the journal
            self.fail(error)
            return await self._refuse(inbound, _over(error))
        await exchange.finish()
        return True

    async def _failed(
        self,
        inbound: Inbound,
        exchange: Exchange,
        error: ProviderFailure | ProviderUnavailable,
        *,
        own: bool,
    ) -> bool:
        """Tell the client what failed; the agent ends where no further request can help."""
        last = error if isinstance(error, ProviderFailure) else exchange.failure
        if exchange.begun:
            return False  # the client sees the cut, and asks again
        trouble = last.trouble if last is not None else None
        theirs = trouble is Trouble.REQUEST or (trouble is Trouble.MODEL and not own)
        if theirs or (isinstance(error, ProviderFailure) and error.trouble.passes):
            if exchange.refusal is not None and exchange.refusal[0] >= 400:
                status, headers, body = exchange.refusal
                await inbound.whole(status, body, headers)
                return True
            return await self._refuse(inbound, Refused(502, "api_error", str(last or error)))
        if isinstance(error, ProviderFailure):
            error = ProviderRefused(f"the provider refuses: {error}")
        self.fail(error)
        return await self._refuse(inbound, _over(error))

    async def _pass_on(self, inbound: Inbound, asked: Asked, body: bytes) -> bool:
        """Answer what costs nothing with what the provider answers."""
        await self._wait_for_turn()
        try:
            headers = shown_headers(asked.headers)
            async with self._free, self._pool.ask(asked.method, asked.target, headers, body) as reply:
                content = await reply.body(MAX_ANSWER_BYTES)
        except ProviderFailure as failure:
            return await self._refuse(inbound, Refused(502, "api_error", str(failure)))
        if reply.status in {401, 403} or reply.status < 200 or 300 <= reply.status < 400:
            refused = Refused(502, "api_error", f"the provider answers HTTP {reply.status}")
            return await self._refuse(inbound, refused)
        await inbound.whole(reply.status, content, shown_of(reply))
        return True

    async def _wait_for_turn(self) -> None:
        """Let no more than the burst and the rate of what costs nothing through."""
        now = self._clock.now()
        self._free_until = max(self._free_until, now - FREE_BURST * FREE_EVERY_S) + FREE_EVERY_S
        with self._clock.move_on_after(self._free_until - now):
            await trio.sleep_forever()


def _over(error: OrchestratorError) -> Refused:
    """Return what a client is told that is to end."""
    kind = "billing_error" if isinstance(error, BudgetExceeded) else "permission_error"
    return Refused(OVER, kind, error.detail)


@asynccontextmanager
async def open_door(
    session: Session, upstream: Upstream, models: Sequence[str], *, grace_s: float = GRACE_S
) -> AsyncIterator[Door]:
    """Open the door for a session, to models of these names or globs, its own model first.

    Leaving the block closes every connection. Where the agent may go on no more (its budget is spent, the
    provider refuses it for good), its next requests are refused; it has `grace_s` to end, then the block is
    cancelled; and in either case the block raises why: `BudgetExceeded`, `ProviderUnavailable`.
    """
    error: Exception | None = None
    pool = Pool(upstream)
    try:
        async with trio.open_nursery() as nursery:
            door = Door(session, pool, models, nursery)
            nursery.start_soon(_end_once_failed, door, nursery.cancel_scope, grace_s)
            try:
                yield door
            except Exception as raised:  # raised again below, and not in a group
                error = raised
            nursery.cancel_scope.cancel(reason="the door is closed")
    finally:
        pool.close_nowait()
    if door.failure is not None:
        raise door.failure from error
    if error is not None:
        raise error


async def _end_once_failed(door: Door, scope: trio.CancelScope, grace_s: float) -> None:
    await door.failed.wait()
    with trio.move_on_after(grace_s):
        await trio.sleep_forever()
    scope.cancel(reason="the agent may go on no more")
