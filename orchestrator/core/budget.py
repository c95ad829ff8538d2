"""Whether a budget has room for one request more, and when to warn of its end.

Pure: what is spent comes from the state, what is reserved from those who wait for an answer. The invariant:
where requests are reserved before they are made and settled after, no budget is overspent by more than the
one request that was alone in flight when it passed the ceiling; turns and tool calls, whose number is known
before, are never overspent. Called by the meter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.model import NO_USAGE, Usage
from orchestrator.core.spec import Ceilings

#: The share of a budget at which it is warned of.
WARN_AT = 0.8
#: Sums of prices are binary fractions: what is nearer than this to a ceiling has reached it.
_NEAR_USD = 1e-9


class Scope(StrEnum):
    """Whose budget it is."""

    AGENT = "agent"
    TASK = "task"
    DAY = "day"
    TOTAL = "total"


class Unit(StrEnum):
    """What a budget counts."""

    COST_USD = "costUsd"
    TOKENS = "tokens"
    TURNS = "turns"
    TOOL_CALLS = "toolCalls"


#: How each unit is written in a ceiling and in what was used.
_CEILING: dict[Unit, Callable[[Ceilings], float | None]] = {
    Unit.COST_USD: lambda ceilings: ceilings.cost_usd,
    Unit.TOKENS: lambda ceilings: ceilings.tokens,
    Unit.TURNS: lambda ceilings: ceilings.turns,
    Unit.TOOL_CALLS: lambda ceilings: ceilings.tool_calls,
}
_USED: dict[Unit, Callable[[Usage], float]] = {
    Unit.COST_USD: lambda usage: usage.cost_usd,
    Unit.TOKENS: lambda usage: usage.tokens,
    Unit.TURNS: lambda usage: usage.turns,
    Unit.TOOL_CALLS: lambda usage: usage.tool_calls,
}


@dataclass(frozen=True, slots=True)
class Account:
    """One budget: its ceilings, what was spent of it, and what requests in flight may spend at most."""

    scope: Scope
    ceilings: Ceilings
    spent: Usage
    reserved: Usage = NO_USAGE


@dataclass(frozen=True, slots=True)
class Mark:
    """How far one ceiling was come to."""

    scope: Scope
    unit: Unit
    spent: float
    ceiling: float

    def __str__(self) -> str:
        whose = {
            Scope.AGENT: "the agent's budget (options.budget)",
            Scope.TASK: "the task's budget over all its attempts (options.budget.task)",
            Scope.DAY: f"the budget of the day, UTC (BUDGET_DAY_{_SETTING.get(self.unit, '')})",
            Scope.TOTAL: f"the budget of the whole (BUDGET_TOTAL_{_SETTING.get(self.unit, '')})",
        }[self.scope]
        return (
            f"{whose} allows {_said(self.ceiling, self.unit)}, and {_said(self.spent, self.unit)} are spent"
        )


_SETTING = {Unit.COST_USD: "USD", Unit.TOKENS: "TOKENS"}


def _said(amount: float, unit: Unit) -> str:
    if unit is Unit.COST_USD:
        return f"{amount:.6f}".rstrip("0").rstrip(".") + " USD"
    return f"{amount:.0f} {'tool calls' if unit is Unit.TOOL_CALLS else unit.value}"


@dataclass(frozen=True, slots=True)
class Spent:
    """Refused: there is nothing left of a budget."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now: what is in flight may come to spend the rest; ask again when some of it is settled."""


def refusal(accounts: Iterable[Account], need: Usage) -> Spent | Wait | None:
    """Return why a request that needs so much at most may not be made now; None where it may.

    With nothing else in flight a request may pass a ceiling of money or tokens that has not been reached: its
    worst case is mostly far from what it comes to.
    """
    wait = False
    for account in accounts:
        for unit, ceiling in _ceilings(account):
            used = _USED[unit]
            spent, reserved, needed = used(account.spent), used(account.reserved), used(need)
            if needed <= 0:
                continue
            if _reached(spent, ceiling, unit):
                return Spent(Mark(account.scope, unit, spent, ceiling))
            wait = wait or (reserved > 0 and spent + reserved + needed > ceiling)
    return Wait() if wait else None


def spent_up(accounts: Iterable[Account]) -> Spent | None:
    """Return the first ceiling that was reached, of those that a further request would need room under."""
    found = refusal(accounts, Usage(input_tokens=1, cost_usd=1.0, turns=1))
    return found if isinstance(found, Spent) else None


def over_tool_calls(accounts: Iterable[Account], calls: int) -> Spent | None:
    """Return the ceiling that has no room for so many tool calls more."""
    for account in accounts:
        ceiling, spent = account.ceilings.tool_calls, account.spent.tool_calls
        if ceiling is not None and spent + calls > ceiling:
            return Spent(Mark(account.scope, Unit.TOOL_CALLS, spent, ceiling))
    return None


def warnings(accounts: Iterable[Account]) -> list[Mark]:
    """Return the ceilings of which more than four fifths are spent."""
    return [
        Mark(account.scope, unit, _USED[unit](account.spent), ceiling)
        for account in accounts
        for unit, ceiling in _ceilings(account)
        if _reached(_USED[unit](account.spent), ceiling * WARN_AT, unit)
    ]


def counts_money(ceilings: Iterable[Ceilings]) -> bool:
    """Return whether any of them is a ceiling of money."""
    return any(each.cost_usd is not None for each in ceilings)


def _ceilings(account: Account) -> list[tuple[Unit, float]]:
    found = ((unit, ceiling(account.ceilings)) for unit, ceiling in _CEILING.items())
    return [(unit, ceiling) for unit, ceiling in found if ceiling is not None]


def _reached(spent: float, ceiling: float, unit: Unit) -> bool:
    return spent >= ceiling - (_NEAR_USD if unit is Unit.COST_USD else 0)
