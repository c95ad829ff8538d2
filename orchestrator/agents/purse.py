"""What may be spent on models: everybody's budgets, and what is reserved of them by requests in flight.

The invariant: what was answered is counted as spent or as reserved at every moment, so that no two requests
take the same room. Sums are the state's; only what is in flight, or was cut there, is kept here, and gone
after a crash, as the requests are. Made at assembly; the meter of every agent reserves from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import trio

from orchestrator.agents.base import Request, ToolUnpriced
from orchestrator.core import budget
from orchestrator.core.budget import Account, Mark, Scope
from orchestrator.core.model import NO_USAGE, AgentId, State, TaskId, Usage
from orchestrator.core.price import Price, Prices
from orchestrator.core.spec import Budget, Ceilings
from orchestrator.errors import ModelUnpriced

NO_CEILINGS = Ceilings()


@dataclass(slots=True, eq=False)
class Reservation:
    """What a request in flight may cost at most; once it is answered, what it cost."""

    agent_id: str
    task_id: str
    usage: Usage
    answered: bool = False


@dataclass(slots=True, eq=False)
class Purse:
    """The budgets of all agents."""

    prices: Prices = field(default_factory=lambda: Prices({}))
    day: Ceilings = NO_CEILINGS
    total: Ceilings = NO_CEILINGS
    #: The wall clock, which says what day it is.
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    _reserved: set[Reservation] = field(default_factory=set)
    #: What requests cost that were cut off in flight, until that is journaled.
    _owed: list[Reservation] = field(default_factory=list)
    #: What was warned of already: of each day anew.
    _told: set[tuple[object, ...]] = field(default_factory=set)
    _settled: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    def counts_money(self, own: Budget) -> bool:
        """Return whether any budget that an agent with this one draws on is of money."""
        return budget.counts_money((own, own.task or NO_CEILINGS, self.day, self.total))

    def price_of(self, request: Request, own: Budget) -> Price | None:
        """Return the price of a request's model, if it is known.

        Raises `ModelUnpriced` and `ToolUnpriced` where it is not, and a budget is of money.
        """
        price = self.prices.find(request.model)
        if self.counts_money(own):
            if price is None:
                raise ModelUnpriced(unpriced(request.model))
            if request.unpriced_tool is not None:
                raise ToolUnpriced(
                    f"the provider charges for the tool {request.unpriced_tool!r:.100} by the hour, "
                    "and a budget counts money"
                )
        return price

    def accounts(self, state: State, agent_id: str, task_id: str, own: Budget) -> list[Account]:
        """Return the budgets that the agent draws on, with what is reserved of each."""
        return self._accounts(state, agent_id, task_id, own, answered_only=False)

    def _accounts(
        self, state: State, agent_id: str, task_id: str, own: Budget, *, answered_only: bool
    ) -> list[Account]:
        agent, task, spend = state.agents[AgentId(agent_id)], state.tasks[TaskId(task_id)], state.spend
        flying = [one for one in self._reserved if one.answered or not answered_only]
        whose: dict[Scope, tuple[Ceilings, Usage, Callable[[Reservation], bool]]] = {
            Scope.AGENT: (own, agent.usage, lambda one: one.agent_id == agent_id),
            Scope.TASK: (own.task or NO_CEILINGS, task.spent, lambda one: one.task_id == task_id),
            Scope.DAY: (self.day, spend.on(self.clock().date()), lambda one: True),
            Scope.TOTAL: (self.total, spend.total, lambda one: True),
        }
        return [
            Account(scope, ceilings, spent.plus(_sum(self._owed, counts)), _sum(flying, counts))
            for scope, (ceilings, spent, counts) in whose.items()
        ]

    @contextmanager
    def reserve(self, agent_id: str, task_id: str, most: Usage) -> Iterator[Reservation]:
        """Hold so much back until the block is left; what was answered must be journaled by then."""
        reservation = Reservation(agent_id, task_id, most)
        self._reserved.add(reservation)
        try:
            yield reservation
        finally:
            self._reserved.remove(reservation)
            self._settled.unpark_all()

    def owe(self, agent_id: str, task_id: str, usage: Usage) -> None:
        """Count what a request cost that was cut off, until it is journaled: see `settle`."""
        if usage != NO_USAGE:
            self._owed.append(Reservation(agent_id, task_id, usage, answered=True))

    def settle(self, agent_id: str) -> Usage | None:
        """Return what is owed for the agent's cut requests, if anything; to be journaled at once."""
        own = [one for one in self._owed if one.agent_id == agent_id]
        self._owed = [one for one in self._owed if one.agent_id != agent_id]
        return _sum(own) if own else None

    async def wait_settled(self) -> None:
        """Wait until something that is reserved now is settled; to be called without a checkpoint before."""
        await self._settled.park()

    def marks(self, state: State, agent_id: str, task_id: str, own: Budget) -> list[Mark]:
        """Return the ceilings to warn of that were not returned before, with what was just answered."""
        accounts = [
            Account(account.scope, account.ceilings, account.spent.plus(account.reserved))
            for account in self._accounts(state, agent_id, task_id, own, answered_only=True)
        ]
        new: list[Mark] = []
        whose = {
            Scope.AGENT: agent_id,
            Scope.TASK: task_id,
            Scope.DAY: self.clock().date(),
            Scope.TOTAL: None,
        }
        for mark in budget.warnings(accounts):
            key = (mark.scope, mark.unit, whose[mark.scope])
            if key not in self._told:
                self._told.add(key)
                new.append(mark)
        return new

    def forget(self, agent_id: str, task_id: str) -> None:
        """Drop what is only remembered of an agent that has ended, or goes on in another life."""
        self._told = {key for key in self._told if key[2] not in (agent_id, task_id)}


def unpriced(model: str) -> str:
    """Return the one line that says what to mend."""
    return f"no price is known of the model {model!r}, and a budget counts money: add it to MODEL_PRICES"


def _sum(some: Iterable[Reservation], counts: Callable[[Reservation], bool] = lambda one: True) -> Usage:
    total = NO_USAGE
    for one in some:
        if counts(one):
            total = total.plus(one.usage)
    return total
