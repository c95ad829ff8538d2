"""What a model's tokens cost: prices in US dollars for a million tokens, and what a request comes to.

Pure. The prices themselves are data (`agents/prices.toml`, MODEL_PRICES); the meter asks what an answer cost,
and what a request can cost at most.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from orchestrator.core.model import Usage
from orchestrator.core.spec import Wire

Dollars = Annotated[float, Field(ge=0, le=1_000_000)]
MILLION = 1_000_000

#: What may follow a model's name without changing its price: the day of a snapshot, a window's size.
_VARIANT = re.compile(r"(-20[0-9]{6})?(\[1m\])?\Z")


class Rates(Wire):
    """US dollars for a million tokens: of prompt and answer, and of what a cache is given and gives."""

    input: Dollars
    output: Dollars
    cache_read: Dollars
    cache_write_5m: Dollars
    cache_write_1h: Dollars


class LongRates(Rates):
    """The rates of a request whose prompt, cached or not, has more tokens than this."""

    above_tokens: Annotated[int, Field(ge=1)]


class Price(Rates):
    """What one model costs."""

    long: LongRates | None = None

    def of(self, usage: Usage) -> float:
        """Return what one request cost, in US dollars."""
        prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        rates = self._rates(prompt)
        for_an_hour = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
        cost = (
            usage.input_tokens * rates.input
            + usage.output_tokens * rates.output
            + usage.cache_read_tokens * rates.cache_read
            + (usage.cache_write_tokens - for_an_hour) * rates.cache_write_5m
            + for_an_hour * rates.cache_write_1h
        )
        return cost / MILLION

    def most(self, input_tokens: int, max_tokens: int) -> float:
        """Return the most that a request can cost: all of its prompt at the dearest rate there is for one."""
        rates = self._rates(input_tokens)
        dearest = max(rates.input, rates.cache_read, rates.cache_write_5m, rates.cache_write_1h)
        return (input_tokens * dearest + max_tokens * rates.output) / MILLION

    def _rates(self, prompt_tokens: int) -> Rates:
        return self.long if self.long is not None and prompt_tokens > self.long.above_tokens else self


class Prices:
    """The prices of the models that have one."""

    def __init__(self, by_model: Mapping[str, Price]) -> None:
        self._by_model = dict(by_model)

    def find(self, model: str) -> Price | None:
        """Return the model's price, by its whole name or by the one that its snapshot is of."""
        return self._by_model.get(model) or self._by_model.get(_VARIANT.sub("", model, count=1))
