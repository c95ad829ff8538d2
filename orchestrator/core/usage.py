"""What agents spend: of one agent, one task or one turn, and of everybody by days.

Pure; folded from `agent.turn` and `agent.usage`. Imported from `model`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date

from orchestrator.core.spec import Wire


class Usage(Wire):
    """What an agent has spent so far; money in US dollars."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    turns: int = 0
    tool_calls: int = 0
    #: Of the prompt, what a provider read from its cache and wrote to it; not counted in `input_tokens`.
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    #: Of `cache_write_tokens`, those written for an hour: they cost more.
    cache_write_1h_tokens: int = 0

    @property
    def tokens(self) -> int:
        """All tokens, those from a cache too."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens

    def plus(self, other: Usage) -> Usage:
        """Return the sum of both."""
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost_usd=self.cost_usd + other.cost_usd,
            turns=self.turns + other.turns,
            tool_calls=self.tool_calls + other.tool_calls,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens + other.cache_write_1h_tokens,
        )


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Spend:
    """What everybody together has spent, by the days (UTC) on which it was journaled."""

    #: The latest day on which something was spent: a clock that is set back makes no day again.
    day: date | None = None
    latest: Usage = NO_USAGE
    #: All that was spent earlier that day.
    earlier: Usage = NO_USAGE

    @property
    def total(self) -> Usage:
        """All that was ever spent."""
        return self.earlier.plus(self.latest)

    def on(self, day: date) -> Usage:
        """Return what was spent on a day that is not over, or since, where the clock was set back."""
        return self.latest if self.day is not None and self.day >= day else NO_USAGE

    def plus(self, usage: Usage, day: date) -> Spend:
        """Return it with something more that was spent on the day."""
        if self.day is None or day > self.day:
            return Spend(day, usage, self.total)
        return replace(self, latest=self.latest.plus(usage))


NO_SPEND = Spend()
