"""One run of a piece of work for all who ask for it meanwhile.

The invariant: whoever asks gets the outcome of a run that began after the asking, and at most one runs at a
time. A runner that is cancelled hands the work to the next in line. Nothing is remembered of a key that
nobody asks for. Callers: `mirrors` (a fetch of each branch), `checkouts` and `setups` (the making of each).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio

from orchestrator.errors import RepositoryError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Shares runs of `work`; failures of the repository are shared too, other errors are the runner's own."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._lock = trio.Lock()
        self._begun = 0
        #: The last run that ended, and its outcome.
        self._ended = 0
        self._outcome: T | RepositoryError | None = None

    async def get(self, work: Callable[[], Awaitable[T]] | None = None) -> T:
        """Return the outcome of the first run that begins from now on; where it is ours, it is of `work`."""
        wanted = self._begun + 1
        async with self._lock:
            if self._ended < wanted:
                await self._run(work or self._work)
            outcome = self._outcome
        if isinstance(outcome, RepositoryError):
            raise type(outcome)(outcome.detail)
        return outcome  # type: ignore[return-value]

    async def _run(self, work: Callable[[], Awaitable[T]]) -> None:
        self._begun += 1
        number = self._begun
        try:
            self._outcome = await work()
        except RepositoryError as error:
            self._outcome = error
        self._ended = number


class Flights(Generic[K, T]):
    """One flight a key, forgotten when the last who asked has landed."""

    def __init__(self) -> None:
        self._flights: dict[K, SingleFlight[T]] = {}
        self._asking: Counter[K] = Counter()

    def __len__(self) -> int:
        """Return how many keys are being asked for."""
        return len(self._flights)

    async def get(self, key: K, work: Callable[[], Awaitable[T]]) -> T:
        """Return the outcome of the first run for this key that begins from now on; see `SingleFlight`.

        `work` has to come to the same for all who ask for a key: each runner runs its own for everybody.
        """
        flight = self._flights.setdefault(key, SingleFlight(work))
        self._asking[key] += 1
        try:
            return await flight.get(work)
        finally:
            self._asking[key] -= 1
            if not self._asking[key]:
                del self._asking[key], self._flights[key]
