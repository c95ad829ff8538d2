"""A backend around another: whatever it says of itself is the inner one's word.

The rooms that open sandboxes are given one for a backend and never know: callers are `supervise.tree` and
`agents.outlet`, which each give `open` something to do before and after.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from sandbox.base import Backend
from sandbox.clock import Clock
from sandbox.ports import Ports


class Wrapped:
    """All of `Backend` but `open`."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.name = inner.name
        self.tier = inner.tier
        self.namespaced = inner.namespaced
        self.layered = inner.layered
        self.enforced = inner.enforced
        self.watched = inner.watched
        self.user = inner.user
        self.clock: Clock = inner.clock

    def seen(self, host: Path, target: str) -> str:
        """See `Backend`."""
        return self._inner.seen(host, target)

    def reserve_ports(self, count: int) -> AbstractContextManager[Ports]:
        """See `Backend`."""
        return self._inner.reserve_ports(count)
