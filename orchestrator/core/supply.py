"""The facts about money and about the model's provider. Import them from `events`."""

from __future__ import annotations

from orchestrator.core.event import AgentEvent, Event
from orchestrator.core.moment import Moment


class BudgetMarkEvent(AgentEvent):
    """How far a budget was come to: of the agent, of its task, of the day or of the whole, in one unit."""

    scope: str
    unit: str
    spent: float
    ceiling: float
    message: str


class BudgetWarning(BudgetMarkEvent):
    """Four fifths of a budget are spent; said once for each."""

    name = "budget.warning"


class BudgetExceeded(BudgetMarkEvent):
    """A budget has no room for what the agent needs next, so the agent ends."""

    name = "budget.exceeded"


class ProviderThrottled(Event):
    """The provider takes no requests for this model, for anybody, until then."""

    name = "provider.throttled"
    model: str
    reason: str
    message: str
    until: Moment


class ProviderRecovered(Event):
    """The provider answers requests for this model again."""

    name = "provider.recovered"
    model: str
    after_s: float
