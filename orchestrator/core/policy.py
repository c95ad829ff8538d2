"""The small decisions: who goes first, how long to wait, whether trying again can help.

Pure and tiny, so that each can be read, argued about and tested alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import IntEnum

from orchestrator.core.model import Agent, Control, Reason, State

#: Crashes of the orchestrator in a row under one agent, after which it is not tried again.
MAX_CRASHES = 3
#: Rejections of a candidate after which the agent fails.
MAX_ROUNDS = 3
#: Times that an agent is given its work back because its branch had moved on; beside its rejections.
MAX_CONFLICTS = 5
#: Times that a commit is brought onto its branch, or pushed there in vain, before its agent fails.
MAX_TRIES = 25
#: Of these, for a branch of its own, whose base moves on: after that it lands where it last fitted.
MAX_FOLLOWED = 3
#: Characters of an agent's error that the journal keeps.
MAX_ERROR = 4000
#: Agents at once that the queue can be set to, however large the host.
MAX_CONCURRENT = 10_000

RETRY_BASE_S = 1.0
RETRY_CEILING_S = 300.0
_CEILING = timedelta(seconds=RETRY_CEILING_S)

#: Ends that the same work can only meet again; everything else may be bad luck.
_FINAL = frozenset(
    {
        Reason.BUDGET_EXCEEDED,
        Reason.GATE_REJECTED,
        Reason.SECRET_DETECTED,
        Reason.POLICY_VIOLATION,
        Reason.CRASH_LOOP,
        Reason.OPERATOR,
        Reason.KILLSWITCH,
        Reason.DEPENDENCY_FAILED,
    }
)


def crash_loop(crashes: int) -> str:
    """Return what is told of an agent that is given up after crashes."""
    return f"the orchestrator died {crashes} times in a row while this agent ran"


def order_key(agent: Agent) -> tuple[int, int]:
    """Return the agent's place by priority and age: higher first, then older first. Turns: `core.claims`."""
    return (-agent.priority, agent.queued_seq)


def may_leave_queue(control: Control) -> bool:
    """Return whether anything may be taken from the queue at all."""
    return not (control.paused or control.frozen or control.draining or control.short)


def free_slots(state: State) -> int:
    """Return how many more agents may become active now."""
    return max(0, state.control.slots - state.active) if may_leave_queue(state.control) else 0


class Standing(IntEnum):
    """What crashes say of an agent: nothing, that one has cut it of late, or that one more ends it."""

    CLEAR = 0
    CUT = 1
    LAST_CHANCE = 2


def standing(agent: Agent) -> Standing:
    """Return how the agent stands. A turn more than ever before clears it."""
    if agent.crashes >= MAX_CRASHES - 1:
        return Standing.LAST_CHANCE
    return Standing.CUT if agent.crashes else Standing.CLEAR


def worst_of(*, cut: int, last_chance: int) -> Standing:
    """Return how the worst stands where so many stand in each way, and all others are clear."""
    if last_chance:
        return Standing.LAST_CHANCE
    return Standing.CUT if cut else Standing.CLEAR


def worst_active(others: Iterable[Agent]) -> Standing:
    """Return how the worst of those of `others` stands that are active."""
    return max((standing(other) for other in others if other.active), default=Standing.CLEAR)


def standings_beside(worst: Standing) -> frozenset[Standing]:
    """Return how one must stand to become active where the worst of those who are stands so.

    A crash counts against everyone who was active: the one who caused it and the innocent. So an agent on its
    last chance never runs beside another that a crash has cut: a crash that ends it is then none of theirs.
    """
    if worst is Standing.CLEAR:
        return frozenset(Standing)
    return frozenset({Standing.CLEAR, Standing.CUT} if worst is Standing.CUT else {Standing.CLEAR})


def may_run_beside(agent: Agent, worst: Standing) -> bool:
    """Return whether the agent may become active where the worst of those who are stands so."""
    return standing(agent) in standings_beside(worst)


def is_due(agent: Agent, now: datetime) -> bool:
    """Return whether the agent's backoff, if any, is over."""
    return agent.not_before is None or has_come(agent.not_before, now)


def has_come(not_before: datetime, now: datetime) -> bool:
    """Return whether the end of a backoff has come.

    One that lies further off than any backoff lasts was written before the clock was set back, and is over:
    else a retry would wait for as long as the clock was set by.
    """
    return not now < not_before <= now + _CEILING


def retry_can_help(reason: Reason) -> bool:
    """Return whether a further attempt may end otherwise."""
    return reason not in _FINAL


def backoff_s(attempt: int, chance: float) -> float:
    """Return the seconds to wait after the given attempt (1 is the first): exponential, capped, with jitter.

    `chance` in [0, 1) picks a point in the upper half: a herd spreads, and nobody waits less than half.
    """
    # The exponent is capped before the power is taken: 2.0 ** 1024 is an error.
    ceiling = min(RETRY_CEILING_S, RETRY_BASE_S * 2.0 ** min(max(attempt - 1, 0), 30))
    return ceiling * (0.5 + 0.5 * chance)
