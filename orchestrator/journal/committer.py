"""What the writer thread does with a group: its transaction, and the chores that go along with it.

Invariant: the event loop decides what is written, the thread only writes; once an hour what has outlived its
promise goes, once a second the room on the disk is looked at. Called by `Store.run` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import trio

from orchestrator.journal.database import Files
from orchestrator.journal.group import Group, write
from orchestrator.journal.statements import expiry

#: How long an idempotency key is kept.
KEEP_RECEIPTS = timedelta(days=7)
EXPIRE_EVERY_S = 3600.0
#: How often the room on the disk is looked at.
BALANCE_EVERY_S = 1.0


class Committer:
    """Makes a job for the writer thread of each group."""

    def __init__(self, files: Files, clock: Callable[[], datetime]) -> None:
        self._files, self._clock = files, clock
        self._balance_at = self._expire_at = 0.0

    def job(self, group: Group) -> Callable[[], None]:
        """Return what commits the group, as it stands now."""
        statements = group.statements()
        now_s = trio.current_time()
        if now_s >= self._expire_at:
            self._expire_at = now_s + EXPIRE_EVERY_S
            statements.append(expiry(self._clock() - KEEP_RECEIPTS))
        return partial(self._commit, statements, now_s, len(group.state.agents))

    def _commit(self, statements: list[tuple[str, str]], now_s: float, lives: int) -> None:
        room = self._files.room
        if now_s >= self._balance_at:
            self._balance_at = now_s + BALANCE_EVERY_S
            room.balance(lives)
        if statements:
            write(self._files.writer, statements, room.remedies())
        if room.spent:
            room.measure()
