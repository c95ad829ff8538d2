"""The signs of life of one agent while it works on a prompt, and the way to begin its conversation anew.

Everything here is synchronous and cheap: runtimes call it at every line. Invariants: it stands for nothing
outside of a prompt, so that nobody is ended for the time that judging takes; times are those of the agent's
own clock. Kept by `gear.Run`; fed by the session; read by `liveness`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from orchestrator.agents.base import Answer, Meter, Request
from orchestrator.core.liveness import (
    SPEAKING,
    Evidence,
    LoopDetector,
    Novelty,
    Sign,
    Standing,
)
from sandbox.clock import Clock, RunningClock

#: What only a plain program is judged by: of others it says that they run, not that they get on.
_PLAIN = frozenset({Sign.STARTED, Sign.OUTPUT, Sign.CPU})


class Pulse:
    """What one agent was seen to do."""

    def __init__(self) -> None:
        #: Whether it is a program of which nothing is known but that it runs.
        self.plain = True
        #: Whether the runtime looks for what is said to its agent in the middle of a prompt.
        self.listens = False
        #: Lines that a plain program wrote, and how many of them said something new.
        self.lines = self.new_lines = 0
        self._clock: Clock = RunningClock()
        self._scope: trio.CancelScope | None = None
        self._since: float | None = None
        self._seen: float | None = None
        self._asking = self._loop = 0
        self._loops, self._novelty = LoopDetector(), Novelty()

    def conversation(self, runtime: str, clock: Clock) -> trio.CancelScope:
        """Return the scope of one conversation, to be entered at once: cancelled where it begins anew."""
        self.plain, self.listens, self._clock, self._seen = runtime not in SPEAKING, False, clock, None
        self._scope = trio.CancelScope()
        return self._scope

    @contextmanager
    def prompt(self) -> Iterator[None]:
        """Work on a prompt."""
        self.step_taken(self._clock.now())
        try:
            yield
        finally:
            self._since = None

    def step_taken(self, since: float) -> None:
        """Begin all deadlines anew: something was done to get the agent going."""
        self._since, self._loop = since, 0
        self._loops.forget()

    def standing(self) -> Standing | None:
        """Return how the agent stands now; None where it works on no prompt."""
        if self._since is None:
            return None
        return Standing(self._clock.now(), self._since, self._seen, self._asking > 0, self._loop)

    def note(self, evidence: Evidence) -> None:
        """Take a sign of life in."""
        if evidence.digest is not None:
            self._loop = self._loops.add(evidence.digest) or self._loop
        if self.plain or evidence.sign not in _PLAIN:
            self._seen = self._clock.now()

    def note_line(self, line: str) -> None:
        """Take a line of output in: where a plain program says something new, it is a sign."""
        if self.plain:
            self.lines += 1
            if self._novelty.is_new(line):
                self.new_lines += 1
                self.note(Evidence(Sign.OUTPUT))

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Wait for a model: that is the provider's time, and its own limits hold."""
        self._asking += 1
        self.note(Evidence(Sign.TURN))
        try:
            yield
        finally:
            self._asking -= 1
            self.note(Evidence(Sign.TURN))

    def restart(self) -> None:
        """Leave the conversation, to begin it anew; nothing happens outside of a prompt."""
        if self._scope is not None and self._since is not None:
            self._scope.cancel(reason="begun anew")


class WatchedMeter:
    """See `agents.base.Meter`: one whose requests are signs of life."""

    def __init__(self, meter: Meter, pulse: Pulse) -> None:
        self._meter = meter
        self._pulse = pulse

    async def ask(self, request: Request, ask: Callable[[], Awaitable[Answer]], *, prompt: int) -> Answer:
        """See `Meter.ask`."""
        with self._pulse.asking():
            return await self._meter.ask(request, ask, prompt=prompt)

    async def check_tools(self, calls: int) -> None:
        """See `Meter.check_tools`."""
        await self._meter.check_tools(calls)

    async def count_tools(self, calls: int, content: str | None = None) -> None:
        """See `Meter.count_tools`."""
        self._pulse.note(Evidence(Sign.TOOL))
        await self._meter.count_tools(calls, content)
