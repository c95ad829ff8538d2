"""Tell a person that something is still going on, once it takes longer than a second.

The invariant: nothing is written where standard error is no terminal, and the line is gone when the wait
is. The ticks come from an interval timer, so that a command needs neither a thread nor a nursery. Called by
`orchestrator.cli.session`.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

FIRST_TICK_S = 1.0
_ERASE = "\r\x1b[2K"


@contextlib.contextmanager
def patience(what: str) -> Iterator[None]:
    """Show `what` and the seconds that it has taken so far, from the first second on."""
    if not what or not sys.stderr.isatty():
        yield
        return
    ticks = 0

    def tick(_number: int, _frame: FrameType | None) -> None:
        nonlocal ticks
        ticks += 1
        sys.stderr.write(f"{_ERASE}{what}: {ticks} s")
        sys.stderr.flush()

    before = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, FIRST_TICK_S, FIRST_TICK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if ticks:
            sys.stderr.write(_ERASE)
            sys.stderr.flush()
