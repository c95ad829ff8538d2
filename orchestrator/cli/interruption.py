"""Turn signals into the end of one scope, so that an interrupted command still closes what it opened.

The invariant: no exception is ever raised between two instructions, as Python's own KeyboardInterrupt would
be; the scope ends at its next checkpoint and whatever stands outside it runs to its end. Called by
`orchestrator.cli.session`, `orchestrator.cli.doctor` and `orchestrator.demo.command`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import TypeVar

import trio

from orchestrator.cli.failure import Interrupted

T = TypeVar("T")


class Interruption:
    """Cancels a scope when SIGINT, SIGTERM or SIGHUP comes; the first counts, further ones change nothing."""

    def __init__(self, scope: trio.CancelScope) -> None:
        #: The signal that came, or 0.
        self.number = 0
        self._scope = scope
        self._token = trio.lowlevel.current_trio_token()

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal."""
        self.number = self.number or number
        self._token.run_sync_soon(self._scope.cancel)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen until the block is left."""
        # One that is ignored stays so: that is what `nohup` and a shell's `&` ask for.
        before = {
            number: signal.signal(number, self)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_interruptible(ask: Callable[[], Awaitable[T]]) -> T:
    """Run to the end on Trio and return the result; raises `Interrupted` where a signal cut it."""

    async def listening() -> T:
        with trio.CancelScope() as scope:
            interruption = Interruption(scope)
            with interruption.listening():
                return await ask()
        raise Interrupted(interruption.number)

    return trio.run(listening)
