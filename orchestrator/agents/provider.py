"""The one way to a model's provider: a line an account and model, shared by all agents, and its gate.

The gate (`core.admission`) decides; here is what it needs of the world: time, chance, and who comes first.
The invariants: agents take turns (`fairness`), and each is served in the order in which it asks; nobody
polls (who waits is woken by what happened, and the first in line by the time it waits for); whatever ends a
request, a cancellation too, takes it out of flight. Made at assembly; the meter of every agent goes through
it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import trio

from orchestrator.agents.fairness import Fairness
from orchestrator.core import admission
from orchestrator.core import events as e
from orchestrator.core.admission import Ceilings, Closed, Fault, Gate, Hold
from orchestrator.core.trouble import AWAY, ProviderFailure, Trouble
from orchestrator.errors import ProviderRefused, ProviderUnavailable

CONCURRENCY = 8
#: How long a provider that is away is waited for.
PATIENCE_S = 1800.0
#: Models whose lines are remembered though nobody stands in them.
MAX_LINES = 256

#: What an agent waits for, for people.
_TOLD = {
    admission.CROWDED: "as many requests are in flight as PROVIDER_CONCURRENCY lets be, or as are tried now",
    admission.RATE: "PROVIDER_TOKENS_PER_MINUTE is used up",
    Trouble.THROTTLED: "the provider limits requests",
    Trouble.USAGE_LIMIT: "the account's usage limit is reached",
    Trouble.OVERLOADED: "the provider is overloaded",
    Trouble.SERVER_ERROR: "the provider fails",
    Trouble.NETWORK: "the provider cannot be reached (ANTHROPIC_BASE_URL)",
}


def refusal_of(trouble: Trouble, detail: str, model: str) -> ProviderRefused:
    """Return the one line that says what to mend."""
    detail = " ".join(detail.split())[:300]
    match trouble:
        case Trouble.LOGIN:
            why = "the provider refuses the key: set CLAUDE_API_KEY to one that is valid, and restart"
        case Trouble.FORBIDDEN:
            why = f"the provider forbids the key (CLAUDE_API_KEY) the model {model}"
        case Trouble.MODEL:
            why = f"the provider has no model {model!r}: name another in CLAUDE_MODEL or options.model"
        case Trouble.UNTRUSTED:
            why = "the provider (ANTHROPIC_BASE_URL) is not who it says"
        case _:
            why = "the provider refuses the request"
    return ProviderRefused(f"{why} ({detail})")


@dataclass(slots=True, eq=False)
class Provider:
    """An account at a provider."""

    ceilings: Ceilings = field(default_factory=lambda: Ceilings(CONCURRENCY))
    #: Seconds for which an agent waits while it gives nobody an answer, and does not say until when.
    patience_s: float = PATIENCE_S
    #: For people only: durations are by Trio's clock.
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    #: Draws from [0, 1).
    chance: Callable[[], float] = random.random
    lines: dict[str, Line] = field(default_factory=dict)

    def line(self, model: str) -> Line:
        """Return the line of all who ask this model."""
        if model not in self.lines:
            if len(self.lines) >= MAX_LINES:  # names that agents made up
                self.lines = {name: line for name, line in self.lines.items() if not line.idle}
            self.lines[model] = Line(self, model, next(map(_login_refused, self.lines.values()), None))
        return self.lines[model]

    def moment(self, at: float) -> datetime:
        """Return the wall clock's time at a time of Trio's clock."""
        return self.clock() + timedelta(seconds=at - trio.current_time())


def _login_refused(line: Line) -> Closed | None:
    closed = line.gate.closed
    return closed if closed is not None and closed.trouble is Trouble.LOGIN else None


class Line:
    """Who waits for one model, and who is being answered."""

    def __init__(self, provider: Provider, model: str, closed: Closed | None = None) -> None:
        self.provider, self.model = provider, model
        self.gate = admission.refuse(Gate(), closed) if closed is not None else Gate()
        self.turns: Fairness[Place] = Fairness()
        self._moved = trio.lowlevel.ParkingLot()
        self._closed_at: float | None = None
        #: When the last answer came.
        self.answered_at = -math.inf

    @property
    def idle(self) -> bool:
        """Whether there is nothing to remember of it."""
        return not self.turns and not self.gate.in_flight and self.gate.closed is None

    @contextmanager
    def place(self, tokens: int, agent_id: str) -> Iterator[Place]:
        """Stand in line with an agent's request of so many tokens at most."""
        place = Place(self, tokens, agent_id)
        self.turns.stand(agent_id, place)
        try:
            yield place
        finally:
            self.leave(place)

    def leave(self, place: Place) -> None:
        """Let the others come closer."""
        self.turns.leave(place.agent_id, place)
        self.move()

    def move(self) -> None:
        """Let everybody in line look again."""
        self._moved.unpark_all()

    def is_first(self, place: Place) -> bool:
        """Return whether nobody comes before it."""
        return self.turns.first(self.provider.ceilings.concurrency) is place

    async def wait(self, deadline: float) -> None:
        """Wait until something has happened, or the time has come."""
        with trio.CancelScope(deadline=deadline):
            await self._moved.park()

    def says(self, reason: str, detail: str = "") -> str:
        """Return what somebody waits for, in words."""
        closed = self.gate.closed
        if not detail and closed is not None and closed.trouble == reason:
            detail = closed.detail
        said = f"{self.model}: {_TOLD.get(reason, reason)}"
        return f"{said}: {' '.join(detail.split())[:300]}" if detail else said

    def note_success(self, epoch: int) -> list[e.Event]:
        """Take note of an answer; return what that means for all."""
        self.answered_at = trio.current_time()
        before, self.gate = self.gate, admission.succeed(self.gate, self.provider.ceilings, epoch)
        if before.closed is None or self.gate.closed is not None:
            return []
        closed_at, self._closed_at = self._closed_at, None
        now = self.answered_at
        for other in self.provider.lines.values():
            if _login_refused(other):  # the key works again: let each try at once
                other.gate = admission.refuse(other.gate, Closed(Trouble.LOGIN, "", now))
                other.move()
        if closed_at is None:
            return []
        return [e.ProviderRecovered(model=self.model, after_s=round(now - closed_at, 3))]

    def note_failure(self, epoch: int, failure: ProviderFailure, agent_id: str) -> list[e.Event]:
        """Take note of an agent's failure; return what that means for all."""
        if failure.of_program and not failure.trouble.passes:
            return []  # nothing, as any agent could keep all others from their model by it
        now, before = trio.current_time(), self.gate
        reset = (failure.until - self.provider.clock()).total_seconds() if failure.until else None
        fault = Fault(failure.trouble, failure.detail, failure.wait_s, reset, agent_id)
        self.gate = admission.fail(self.gate, epoch, fault, now, self.provider.chance())
        closed = self.gate.closed
        if closed is None or closed is before.closed:
            return []
        if closed.trouble is Trouble.LOGIN:
            for other in self.provider.lines.values():
                if other is not self:
                    other.gate = admission.refuse(other.gate, closed)
                    other.move()
        if closed.refused:
            return []  # whoever is refused ends, and says why
        if self._closed_at is None:
            self._closed_at = now
        message, until = self.says(closed.trouble), self.provider.moment(closed.until)
        return [e.ProviderThrottled(model=self.model, reason=closed.trouble, message=message, until=until)]


@dataclass(slots=True)
class Patience:
    """How long one request waits for a provider that is away: since when that is, as far as it knows."""

    line: Line
    _since: float | None = None

    def until(self, reason: str, detail: str = "") -> float:
        """Return when it is lost, waiting for this; raises `ProviderUnavailable` where that is now."""
        line, now = self.line, trio.current_time()
        if reason not in AWAY:
            return math.inf
        if self._since is None or self._since < line.answered_at:
            self._since = now
        if now < (end := self._since + line.provider.patience_s):
            return end
        waited = f"{line.provider.patience_s:g} s (PROVIDER_PATIENCE_SECONDS)"
        raise ProviderUnavailable(f"{line.says(reason, detail)}; it was waited for {waited}")

    def renew(self) -> None:
        """Begin anew with the next failure."""
        self._since = None


@dataclass(slots=True, eq=False)
class Place:
    """A place in line."""

    line: Line
    tokens: int
    agent_id: str

    def hold(self) -> Hold | None:
        """Return why it is not this one's turn; where it is, `go` must follow at once.

        Raises `ProviderRefused` while what is asked for is refused to everybody.
        """
        line, now = self.line, trio.current_time()
        closed = line.gate.closed
        if closed is not None and closed.refused and now < closed.until:
            raise refusal_of(closed.trouble, closed.detail, line.model)
        found = admission.hold(line.gate, line.provider.ceilings, self.tokens, now)
        if line.is_first(self):
            return found
        return Hold(found.reason if found else admission.CROWDED, found.until if found else math.inf)

    async def wait(self, deadline: float) -> None:
        """Wait until it may be this one's turn, or the time has come."""
        await self.line.wait(deadline)

    def go(self) -> Flight:
        """Leave the line for the provider."""
        line = self.line
        line.gate = admission.begin(line.gate, line.provider.ceilings, self.tokens, trio.current_time())
        line.turns.go(self.agent_id, self)
        line.move()
        return Flight(line, line.gate.epoch, self.tokens, self.agent_id)


@dataclass(slots=True, eq=False)
class Flight:
    """A request that was let go."""

    line: Line
    epoch: int
    tokens: int
    agent_id: str
    _over: bool = False

    def land(self, used: int | None = None) -> None:
        """Take it out of flight, once; without `used` nobody knows what it used."""
        if not self._over:
            self._over = True
            line, unused = self.line, 0 if used is None else self.tokens - used
            ceilings, now = line.provider.ceilings, trio.current_time()
            line.gate = admission.end(line.gate, ceilings, self.epoch, unused, now)
            line.turns.land(self.agent_id)
            line.move()

    def answered(self, used: int) -> list[e.Event]:
        """Take note that it was answered, and of its tokens; return what that means for all."""
        self.land(used)
        return self.line.note_success(self.epoch)

    def failed(self, failure: ProviderFailure) -> list[e.Event]:
        """Take note that it failed; return what that means for all."""
        self.land(None if failure.begun else 0)
        return self.line.note_failure(self.epoch, failure, self.agent_id)
