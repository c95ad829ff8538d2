"""A bounded memory of the latest entries: what a caller may have missed between its look and its command.

A caller looks into the tables (how many attempts had that task? was that key used?) and then submits; what
was committed in between is not in its answer, and no longer in the state either. The store remembers it here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

#: More than can be committed between any caller's look and its command.
LATEST = 65_536


class Recent(Generic[K, V]):
    """The latest entries; the oldest gives way."""

    def __init__(self, size: int = LATEST) -> None:
        self._size = size
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """Return what is remembered under the key."""
        return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        """Remember the value as the latest."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
