"""What one agent spends on models: held to budgets and to the provider's limits, and journaled turn by turn.

The invariants: an answer that `ask` returns is durable, with what it cost; no request is made that a budget
has no room for, or while the agent is frozen; while the agent waits for the provider none of its time passes,
it is `parked` in the journal, and it goes on by itself. Made by `supervise.run` for each life of an agent;
the runtimes and the door call it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol

import trio

from orchestrator.agents.base import MAX_TEXT, Answer, Request
from orchestrator.agents.provider import Flight, Line, Patience, Place, Provider, refusal_of
from orchestrator.agents.purse import Purse, Reservation
from orchestrator.core import admission, budget
from orchestrator.core import events as e
from orchestrator.core.budget import Account, Mark, Spent
from orchestrator.core.model import Phase, State, Usage
from orchestrator.core.price import Price
from orchestrator.core.spec import Budget
from orchestrator.core.text import tail_of
from orchestrator.core.trouble import ProviderFailure
from orchestrator.errors import BudgetExceeded, ProviderUnavailable

log = logging.getLogger(__name__)

#: Journals facts about the agent; durable on return.
Record = Callable[..., Awaitable[None]]
Asking = Callable[[], Awaitable[Answer]]

#: Who waits in line for so long, without the provider being in trouble, is parked, too.
PARK_AFTER_S = 5.0


class Stillness(Protocol):
    """How an agent stands still: for a freeze, and while it waits for what is not its doing."""

    @property
    def frozen(self) -> bool:
        """Whether it may do nothing."""
        ...

    async def wait_thawed(self) -> None:
        """Wait until it may go on; at once where it may."""
        ...

    def stand_still(self) -> AbstractContextManager[None]:
        """Let none of its time pass inside the block."""
        ...


@dataclass(slots=True)
class _Asked:
    """One request on its way: what it may cost, and how it waits; without a `prompt` it is no turn."""

    line: Line
    patience: Patience
    price: Price | None
    most: Usage
    #: The tokens that it is likely to need at most: by these it stands in line.
    likely: int
    request: Request
    prompt: int | None
    since: float
    #: Until when it is parked, as far as the journal knows; None where it is not.
    told: float | None = None
    #: Why, in words that the log has.
    logged: str = ""
    failures: int = 0


class AgentMeter:
    """See `agents.base.Meter`; one for each life of an agent."""

    def __init__(
        self,
        ids: dict[str, str],
        record: Record,
        *,
        state: Callable[[], State],
        own: Budget,
        provider: Provider,
        purse: Purse,
        stillness: Stillness,
        turn: int = 0,
    ) -> None:
        """Take the agent's ids, the way into the journal, its budget, and the last turn on its worktree."""
        self._ids, self._record, self._state = ids, record, state
        self._own, self._provider, self._purse = own, provider, purse
        self._stillness, self._turn = stillness, turn
        #: Requests that are parked, as far as the journal knows.
        self._parked = 0
        self._new_marks()  # of what an earlier life, or an earlier attempt, was warned

    def close(self) -> None:
        """Forget the agent."""
        self._purse.forget(self._ids["agent_id"], self._ids["task_id"])

    # --- what runtimes call --------------------------------------------------------------------------------

    async def ask(self, request: Request, ask: Asking, *, prompt: int | None) -> Answer:
        """See `agents.base.Meter`; without a prompt it is asked about the agent's work, and is no turn."""
        price = self._purse.price_of(request, self._own)
        prompt_tokens = max(request.input_tokens, request.most_input_tokens)
        cost = price.most(prompt_tokens, request.max_tokens) if price else 0.0
        most = Usage(input_tokens=prompt_tokens, output_tokens=request.max_tokens, cost_usd=cost)
        most = most if prompt is None else most.plus(Usage(turns=1))
        line, likely = self._provider.line(request.model), request.input_tokens + request.max_tokens
        now = trio.current_time()
        asked = _Asked(line, Patience(line), price, most, likely, request, prompt, now)
        await self._settle()
        try:
            while True:
                outcome = await self._attempt(asked, ask)
                if isinstance(outcome, Answer):
                    return outcome
                await self._bear(asked, outcome)
        finally:
            self._parked -= asked.told is not None

    async def count_tools(self, calls: int, content: str | None = None) -> None:
        """See `agents.base.Meter`."""
        words = e.said(content) if content is not None else {}
        used = e.AgentUsage(**self._ids, **words, usage=Usage(tool_calls=calls))
        with self._purse.reserve(**self._ids, most=used.usage) as reservation:
            reservation.answered = True
            await self._record(used, *self._new_marks())
        await self.check_tools(0)

    async def check_tools(self, calls: int) -> None:
        """See `agents.base.Meter`."""
        await self._refuse(budget.over_tool_calls(self._accounts(), calls))

    async def check(self) -> None:
        """Raise `BudgetExceeded` where nothing is left for a further prompt."""
        await self._refuse(budget.spent_up(self._accounts()))

    # --- one request ---------------------------------------------------------------------------------------

    async def _attempt(self, asked: _Asked, ask: Asking) -> Answer | ProviderFailure:
        """Make the request once, when its turn has come."""
        with ExitStack() as ends:
            flight, reservation = await self._enter(asked, ends)
            await self._go_on(asked)
            try:
                answer = await ask()
            except ProviderFailure as failure:
                events = flight.failed(failure)
                if failure.usage is not None:
                    reservation.usage, reservation.answered = _priced(failure.usage, asked.price), True
                    used = e.AgentUsage(**self._ids, usage=reservation.usage)
                    events = [used, *self._new_marks(), *events]
                if events:
                    await self._record(*events)
                return failure
            except trio.Cancelled:
                cut = asked.request.so_far() or Usage(input_tokens=asked.request.input_tokens)
                self._purse.owe(**self._ids, usage=_priced(cut, asked.price))
                raise
            return await self._journal(asked, answer, flight, reservation)

    async def _enter(self, asked: _Asked, ends: ExitStack) -> tuple[Flight, Reservation]:
        """Wait for the request's turn; what it holds then is given back when `ends` is closed."""
        with self._stillness.stand_still():
            while True:
                if self._stillness.frozen:
                    asked.patience.renew()  # nobody tried meanwhile
                await self._stillness.wait_thawed()
                with asked.line.place(asked.likely, self._ids["agent_id"]) as place:
                    await self._wait_for_turn(asked, place)
                    if self._stillness.frozen:  # who may not go keeps nobody waiting
                        continue
                    refused = budget.refusal(self._accounts(), asked.most)
                    if refused is None:
                        flight = place.go()
                        ends.callback(flight.land)
                        return flight, ends.enter_context(self._purse.reserve(**self._ids, most=asked.most))
                if isinstance(refused, Spent):
                    await self._refuse(refused)
                await self._purse.wait_settled()

    async def _wait_for_turn(self, asked: _Asked, place: Place) -> None:
        """Return when it is this request's turn, or the agent is frozen; park where that takes long."""
        while (hold := place.hold()) is not None and not self._stillness.frozen:
            patient = asked.since + PARK_AFTER_S
            patience = asked.patience.until(hold.reason)
            in_line = hold.reason in (admission.CROWDED, admission.RATE)
            later = asked.told is not None and asked.told + PARK_AFTER_S < hold.until < math.inf
            if in_line and asked.told is None and trio.current_time() < patient:
                await place.wait(min(patient, hold.until))
            elif asked.told is None or (later and not in_line):
                await self._park(asked, hold.reason, hold.until)  # which takes its time
            else:
                await place.wait(min(hold.until, patience))

    async def _journal(
        self, asked: _Asked, answer: Answer, flight: Flight, reservation: Reservation
    ) -> Answer:
        usage = _priced(answer.usage, asked.price)
        events = flight.answered(usage.tokens - usage.cache_read_tokens)
        reservation.usage, reservation.answered = usage.plus(Usage(turns=asked.most.turns)), True
        turn = [] if asked.prompt is None else [self._turn_of(asked.prompt, answer, usage)]
        used = e.AgentUsage(**self._ids, usage=usage)
        await self._record(*turn, used, *self._new_marks(), *events)
        return replace(answer, usage=usage)

    def _turn_of(self, prompt: int, answer: Answer, usage: Usage) -> e.AgentTurn:
        self._turn += 1
        words = e.said(answer.content) if answer.content is not None else {}
        return e.AgentTurn(
            **self._ids,
            **words,
            turn=self._turn,
            stop_reason=answer.stop_reason,
            duration_ms=round(answer.duration_ms, 1),
            text=tail_of(answer.text.encode(), MAX_TEXT),
            prompt=prompt,
            model=answer.model,
            usage=usage,
        )

    async def _settle(self) -> None:
        """Journal what requests cost that were cut off, as their clients ended."""
        if owed := self._purse.settle(self._ids["agent_id"]):
            with self._purse.reserve(**self._ids, most=owed) as reservation:
                reservation.answered = True
                await self._record(e.AgentUsage(**self._ids, usage=owed), *self._new_marks())

    async def _bear(self, asked: _Asked, failure: ProviderFailure) -> None:
        """Return when the request may be made again; raise where that cannot help."""
        if not failure.trouble.passes:
            raise refusal_of(failure.trouble, failure.detail, asked.line.model)
        if failure.begun:
            raise ProviderUnavailable(f"an answer of {asked.line.model} broke off: {failure.detail}")
        asked.failures += 1
        closed = asked.line.gate.closed
        if closed is None or closed.until <= trio.current_time():  # nobody else's trouble
            patience = asked.patience.until(failure.trouble, failure.detail)
            wait_s = admission.backoff_s(asked.failures, self._provider.chance())
            until = min(trio.current_time() + wait_s, patience)
            with self._stillness.stand_still():
                await self._park(asked, failure.trouble.value, until, failure.detail)
                with trio.CancelScope(deadline=until):
                    await trio.sleep_forever()

    # --- what the journal is told --------------------------------------------------------------------------

    async def _park(self, asked: _Asked, reason: str, until: float, detail: str = "") -> None:
        self._parked += asked.told is None
        asked.told = until
        said = asked.line.says(reason, detail)
        if reason not in (admission.CROWDED, admission.RATE) and said != asked.logged:
            asked.logged = said
            extra = {"agent_id": self._ids["agent_id"], "why": said}
            log.warning("agent waits for its provider", extra=extra)
        moment = self._provider.moment(until) if until < math.inf else None
        await self._record(e.AgentParked(**self._ids, message=said, until=moment, reason=reason))

    async def _go_on(self, asked: _Asked) -> None:
        if asked.told is not None:
            asked.told = None
            self._parked -= 1
            if self._parked == 0:
                phase = Phase.REVIEWING if asked.prompt is None else None
                await self._record(e.AgentResumed(**self._ids, waited=True, phase=phase))

    async def _refuse(self, spent: Spent | None) -> None:
        """Journal that a budget is used up, and raise."""
        if spent is not None:
            await self._record(e.BudgetExceeded(**self._ids, **_told(spent.mark)))
            raise BudgetExceeded(str(spent.mark))

    def _new_marks(self) -> list[e.Event]:
        marks = self._purse.marks(self._state(), **self._ids, own=self._own)
        return [e.BudgetWarning(**self._ids, **_told(mark)) for mark in marks]

    def _accounts(self) -> list[Account]:
        return self._purse.accounts(self._state(), **self._ids, own=self._own)


def _priced(usage: Usage, price: Price | None) -> Usage:
    return usage if price is None else usage.model_copy(update={"cost_usd": price.of(usage)})


def _told(mark: Mark) -> dict[str, Any]:
    return {
        "scope": mark.scope,
        "unit": mark.unit,
        "spent": mark.spent,
        "ceiling": mark.ceiling,
        "message": str(mark),
    }
