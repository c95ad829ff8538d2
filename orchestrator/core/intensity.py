"""How often something may go wrong before we stop trying for a while: pure, from times and reasons.

For an agent see `policy.MAX_CRASHES`. Here: for a repository whose agents fail one after the other for a
reason that lies with neither of them, and for the orchestrator itself. Called by `supervise.breaker` and
`supervise.restarts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from orchestrator.core.model import Reason

#: Reasons that lie with the host or the remote: the next agent of the repository will meet them, too.
INFRASTRUCTURE = frozenset(
    {Reason.REPOSITORY_ERROR, Reason.SANDBOX_ERROR, Reason.PUSH_FAILED, Reason.PROVIDER_UNAVAILABLE}
)
#: So many failures for one of them, within the window and without a success, hold a repository's agents back.
MAX_FAILURES = 5
FAILURE_WINDOW = timedelta(minutes=10)
HOLD = timedelta(seconds=30)
HOLD_CEILING = timedelta(minutes=15)

#: So many starts after a crash, within the window, and the orchestrator keeps its queue for a while.
MAX_CRASHED_STARTS = 5
START_WINDOW = timedelta(minutes=10)
START_HOLD_S = 1.0
START_HOLD_CEILING_S = 60.0


def held_until(failures: Sequence[datetime]) -> datetime | None:
    """Return until when agents are held back after these failures of one reason, oldest first; or None.

    The hold doubles with each failure more.
    """
    if not failures:
        return None
    last = failures[-1]
    count = sum(last - failure <= FAILURE_WINDOW for failure in failures)
    if count < MAX_FAILURES:
        return None
    return last + min(HOLD_CEILING, HOLD * 2.0 ** min(count - MAX_FAILURES, 30))


def start_hold_s(
    crashed: Sequence[datetime], now: datetime, ceiling_s: float = START_HOLD_CEILING_S
) -> float:
    """Return for how many seconds nothing is started after these starts after a crash, this one among them.

    None for the first few of late; then it doubles with each one more, up to the ceiling.
    """
    count = sum(now - start <= START_WINDOW for start in crashed)
    if count < MAX_CRASHED_STARTS:
        return 0.0
    return min(ceiling_s, START_HOLD_S * 2.0 ** min(count - MAX_CRASHED_STARTS, 30))
