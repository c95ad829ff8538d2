"""Waiting for the world outside: a process, a file or a socket that has no way to tell us.

The one place of the tests that sleeps. Whatever can be waited for by itself (an event, a descriptor, a line
of output) is waited for by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")

PAUSE_S = 0.01


def until(look: Callable[[], T], what: str, within_s: float = 30.0) -> T:
    """Look again and again until the answer is true, and return it; fails with `what` at the deadline."""
    end = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < end, f"not within {within_s:g} s: {what}"
        time.sleep(PAUSE_S)
    return seen


def pause(seconds: float) -> None:
    """Let time pass, to strike at different moments; never to wait for something."""
    time.sleep(seconds)


async def seen(look: Callable[[], object], what: str, within_s: float = 30.0) -> None:
    """Look again and again until the answer is true, without holding up what else runs on Trio."""
    with trio.move_on_after(within_s):
        while not look():  # noqa: ASYNC110 - what is looked at cannot tell us
            await trio.sleep(PAUSE_S)
        return
    raise AssertionError(f"not within {within_s:g} s: {what}")
