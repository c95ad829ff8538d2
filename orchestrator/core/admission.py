"""How a provider's account takes requests for one model: who may go, what a failure closes, how it reopens.

Pure: times are monotonic seconds, chance is a number in [0, 1). The invariants: no more requests are in
flight than the ceiling says; once the provider has said that it is too much, none is made until its time has
come, then one, and after each answer one more than before (so their number doubles a round trip). A request
that was made before the gate last closed says nothing about how it is now. Called by `agents.provider`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from orchestrator.core.trouble import AWAY, Trouble

#: Failures of single requests in a row after which the provider itself is taken to be away.
MOST_IN_A_ROW = 3
#: How long the first request keeps the others waiting: a refusal comes sooner, an answer may take minutes.
PROBE_S = 5.0
#: Waits where the provider names none: doubled at each failure in a row, up to the ceiling.
BACKOFF_S, BACKOFF_CEILING_S = 1.0, 60.0
#: How long a refused key or model is refused here, too, before one request tries it again.
REFUSED_S = 30.0
#: The longest wait that a provider is believed: weekly limits are reset after seven days.
LONGEST_S = 8 * 86400.0
#: A gate reopens up to this share of the wait late, within bounds.
JITTER, JITTER_LEAST_S, JITTER_MOST_S = 0.1, 0.5, 30.0

#: Why somebody waits who is not kept by a failure.
CROWDED, RATE = "concurrency", "token_rate"


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the operator allows for an account and model."""

    concurrency: int
    #: Tokens of prompt (but those read from a cache) and answer; None is no ceiling.
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """Why a gate is closed, and until when; `refused` where waiting does not help."""

    trouble: Trouble
    detail: str
    until: float

    @property
    def refused(self) -> bool:
        """Whether requests are refused meanwhile, and not kept."""
        return not self.trouble.passes


@dataclass(frozen=True, slots=True)
class Gate:
    """How it stands."""

    #: Stays after its time until an answer has come: then only a probe is let in.
    closed: Closed | None = None
    #: How many may be in flight of those that began since the gate last closed.
    window: int = 1
    #: Whether the window grows step by step, and not at once: after a failure.
    ramping: bool = False
    in_flight: int = 0
    #: Of these, those that began since the gate last closed.
    fresh: int = 0
    #: When the only one of these began.
    probe_at: float = 0.0
    #: How often it closed.
    epoch: int = 0
    #: Failures since the last answer, and whose the last of them was.
    failures: int = 0
    failed: str | None = None
    #: Tokens that were drawn and have not flowed back, at a time.
    drawn: float = 0.0
    drawn_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Hold:
    """Not now: why, and until when at least (infinity: until something else has happened)."""

    reason: str
    until: float


def hold(gate: Gate, ceilings: Ceilings, tokens: int, now: float) -> Hold | None:
    """Return why the next request may not go; None where it may."""
    if gate.closed is not None and now < gate.closed.until:
        return Hold(gate.closed.trouble.value, gate.closed.until)
    if gate.in_flight >= ceilings.concurrency:
        return Hold(CROWDED, math.inf)
    if gate.fresh >= _window(gate, ceilings, now):
        reason = gate.closed.trouble.value if gate.closed is not None else CROWDED
        patient = gate.probe_at + PROBE_S
        return Hold(reason, patient if gate.window == 1 and now < patient else math.inf)
    rate = ceilings.tokens_per_minute
    if rate is None:
        return None
    drawn = _drawn(gate, ceilings, now)
    over = min(drawn + tokens - rate, drawn)  # one that is larger than a minute goes when nothing is drawn
    return Hold(RATE, now + over * 60 / rate) if over > 1e-6 else None


def _window(gate: Gate, ceilings: Ceilings, now: float) -> int:
    """Return how many fresh ones may be in flight: a probe that was not refused for so long is let pass."""
    if gate.window == 1 and gate.fresh > 0 and now >= gate.probe_at + PROBE_S:
        return 2 if gate.ramping else ceilings.concurrency
    return gate.window


def _drawn(gate: Gate, ceilings: Ceilings, now: float) -> float:
    rate = ceilings.tokens_per_minute
    return max(0.0, gate.drawn - (now - gate.drawn_at) * rate / 60) if rate is not None else 0.0


def _draw(gate: Gate, ceilings: Ceilings, tokens: int, now: float) -> Gate:
    return replace(gate, drawn=max(0.0, _drawn(gate, ceilings, now) + tokens), drawn_at=now)


def begin(gate: Gate, ceilings: Ceilings, tokens: int, now: float) -> Gate:
    """Let a request go."""
    gate = _draw(gate, ceilings, tokens, now)
    probe_at = now if gate.fresh == 0 else gate.probe_at
    return replace(gate, in_flight=gate.in_flight + 1, fresh=gate.fresh + 1, probe_at=probe_at)


def end(gate: Gate, ceilings: Ceilings, epoch: int, unused: int, now: float) -> Gate:
    """Take a request out of flight, whatever came of it; `unused` tokens flow back."""
    gate = _draw(gate, ceilings, -unused, now)
    fresh = gate.fresh - (epoch == gate.epoch)
    return replace(gate, in_flight=gate.in_flight - 1, fresh=fresh)


def succeed(gate: Gate, ceilings: Ceilings, epoch: int) -> Gate:
    """Take note of an answer."""
    if epoch != gate.epoch:
        return gate
    window = min(gate.window + 1, ceilings.concurrency) if gate.ramping else ceilings.concurrency
    ramping = gate.ramping and window < ceilings.concurrency
    return replace(gate, closed=None, window=window, ramping=ramping, failures=0, failed=None)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is known of a failure: seconds that the provider asks for, and when its limit is reset."""

    trouble: Trouble
    detail: str
    wait_s: float | None = None
    reset_s: float | None = None
    #: The agent that met it; None is nobody in particular.
    agent_id: str | None = None


def fail(gate: Gate, epoch: int, fault: Fault, now: float, chance: float) -> Gate:
    """Take note of a failure: it may close the gate for all.

    That the provider gives no answer may be one agent's doing: again and again, it counts once, until another
    agent meets the same.
    """
    if fault.trouble is Trouble.REQUEST:
        return gate
    if epoch != gate.epoch:  # the gate closed meanwhile; a later time may have been learned
        if gate.closed is None or not _is_told(fault) or gate.closed.refused:
            return gate
        return replace(gate, closed=replace(gate.closed, until=max(gate.closed.until, now + _told_s(fault))))
    if fault.trouble in AWAY and fault.agent_id is not None and fault.agent_id == gate.failed:
        return gate
    gate = replace(gate, failures=gate.failures + 1, failed=fault.agent_id)
    if fault.trouble in AWAY and gate.closed is None and gate.failures < MOST_IN_A_ROW:
        return gate
    return _close(gate, fault, now, chance)


def _close(gate: Gate, fault: Fault, now: float, chance: float) -> Gate:
    if not fault.trouble.passes:
        wait_s = REFUSED_S
    else:
        wait_s = _told_s(fault) if _is_told(fault) else backoff_s(gate.failures, chance)
        wait_s += chance * min(max(JITTER * wait_s, JITTER_LEAST_S), JITTER_MOST_S)
    return refuse(gate, Closed(fault.trouble, fault.detail, now + wait_s))


def refuse(gate: Gate, closed: Closed) -> Gate:
    """Close it for what was learned at another gate of the same account."""
    return replace(gate, closed=closed, window=1, ramping=True, fresh=0, epoch=gate.epoch + 1)


def _is_told(fault: Fault) -> bool:
    return fault.wait_s is not None or fault.reset_s is not None


def _told_s(fault: Fault) -> float:
    told = fault.reset_s if fault.reset_s is not None else fault.wait_s
    return min(max(told or 0.0, 0.0), LONGEST_S)


def backoff_s(failures: int, chance: float) -> float:
    """Return the seconds to wait after so many failures in a row, where the provider does not say."""
    ceiling = min(BACKOFF_CEILING_S, BACKOFF_S * 2.0 ** min(max(failures - 1, 0), 30))
    return ceiling * (0.5 + 0.5 * chance)
