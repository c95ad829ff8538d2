"""Waiting for the world outside: a process, a file or a socket that has no way to tell us.

The one place of the tests that sleeps. Whatever can be waited for by itself (an event, a descriptor, a line
of output) is waited for by itself. A look may cost a request, or all of /proc: looks become rarer and rarer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import trio

T = TypeVar("T")

PAUSE_S = 0.01
#: What a pause grows by, and the longest: with 0.1 s a look is asked ten times a second, not fifty.
GROWTH = 1.25
LONGEST_S = 0.1


def pauses() -> Iterator[float]:
    """Yield how long to wait before each next look."""
    length = PAUSE_S
    while True:
        yield length
        length = min(length * GROWTH, LONGEST_S)


def until(look: Callable[[], T], what: str, within_s: float = 30.0) -> T:
    """Look again and again until the answer is true, and return it; fails with `what` at the deadline."""
    end, between = time.monotonic() + within_s, pauses()
    while not (seen := look()):
        assert time.monotonic() < end, f"not within {within_s:g} s: {what}"
        time.sleep(next(between))
    return seen


def pause(seconds: float) -> None:
    """Let time pass, to strike at different moments; never to wait for something."""
    time.sleep(seconds)


async def seen(look: Callable[[], object], what: str, within_s: float = 30.0) -> None:
    """Look again and again until the answer is true, without holding up what else runs on Trio."""
    between = pauses()
    with trio.move_on_after(within_s):
        while not look():  # noqa: ASYNC110 - what is looked at cannot tell us
            await trio.sleep(next(between))
        return
    raise AssertionError(f"not within {within_s:g} s: {what}")
