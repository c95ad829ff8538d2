"""What has become of each task that was handed in to be dispatched: one row a task, durable before an answer.

The invariant: a task that was taken in is dispatched, refused with its reason, or pending, through every
crash; and each is handed over under one key of its own, so that handing it over again changes nothing.
Called by `dispatcher` and `app`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import apsw
import trio

from orchestrator.core.spec import TaskSpec
from orchestrator.core.strict_json import canonical
from orchestrator.errors import CommandRefused, JournalError, QueueFull, TaskUnknown
from orchestrator.journal import migration, place
from orchestrator.journal.database import connect

T = TypeVar("T")

MAX_PENDING = 10_000
#: Rows in all, but what is pending stays.
MAX_KEPT = 100_000
MAX_PAGE = 500
MAX_ERROR = 2000
_COLUMNS = "number, task_id, spec, idempotency_key, state, tries, agent_id, error, taken_at, settled_at"


class State(StrEnum):
    """How far a task has come."""

    PENDING = "pending"
    DISPATCHED = "dispatched"
    #: By the pre-check.
    REJECTED = "rejected"
    #: By the orchestrator.
    FAILED = "failed"


class OtherTask(CommandRefused):
    """A task of that id was handed in with another body."""

    code = "task_differs"


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One row."""

    number: int
    task_id: str
    spec: str
    key: str
    state: State
    tries: int
    agent_id: str | None
    error: str | None
    taken_at: str
    settled_at: str | None

    def shown(self) -> dict[str, Any]:
        """Return what is told of it."""
        told = {
            "taskId": self.task_id,
            "state": self.state.value,
            "tries": self.tries,
            "agentId": self.agent_id,
            "error": self.error,
            "takenAt": self.taken_at,
            "settledAt": self.settled_at,
        }
        return {name: value for name, value in told.items() if value is not None}


class Ledger:
    """The open record; made by `open_ledger`."""

    def __init__(
        self,
        connection: apsw.Connection,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
        kept: int = MAX_KEPT,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._new_id = new_id
        self._kept = kept
        self._line = trio.CapacityLimiter(1)

    async def _ask(self, work: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(work, limiter=self._line)
        except apsw.Error as error:
            raise JournalError(f"the record of dispatches cannot be used: {error}") from error

    async def take(self, spec: TaskSpec) -> tuple[Dispatch, bool]:
        """Take a task in, and return its row and whether it is new; the same one twice is taken in once.

        Raises `OtherTask` where the id is another task's, `QueueFull` where too many are pending.
        """
        text = canonical(json.loads(spec.model_dump_json(exclude_unset=True))).decode()
        now, key = self._now(), self._new_id()
        return await self._ask(lambda: self._take(spec.task_id, text, key, now))

    def _take(self, task_id: str, text: str, key: str, now: str) -> tuple[Dispatch, bool]:
        with self._connection:
            if (known := self._find(task_id)) is not None:
                if known.spec != text:
                    raise OtherTask(f"the task {task_id} was handed in before, with another body")
                return known, False
            waiting = self._connection.execute("SELECT count(*) FROM dispatches WHERE state = 'pending'").get
            if waiting >= MAX_PENDING:
                raise QueueFull(f"{waiting} tasks wait to be dispatched; hand this one in later")
            self._connection.execute(
                "DELETE FROM dispatches WHERE state != 'pending'"
                " AND number <= (SELECT max(number) FROM dispatches) - ?",
                (self._kept,),
            )
            self._connection.execute(
                "INSERT INTO dispatches (task_id, spec, idempotency_key, state, taken_at)"
                " VALUES (?, ?, ?, 'pending', ?)",
                (task_id, text, key, now),
            )
            taken = self._find(task_id)
        if taken is None:
            raise JournalError(f"the task {task_id} was written and is not there")
        return taken, True

    async def settle(
        self, task_id: str, state: State, *, agent_id: str | None = None, error: str | None = None
    ) -> None:
        """Write down what a pending task came to."""
        now, text = self._now(), error[:MAX_ERROR] if error else None
        await self._write(
            "UPDATE dispatches SET state = ?, agent_id = ?, error = ?, settled_at = ?, tries = tries + 1"
            " WHERE task_id = ? AND state = 'pending'",
            (state.value, agent_id, text, now, task_id),
        )

    async def note_failure(self, task_id: str, error: str) -> None:
        """Write down why a try brought nothing; the task stays pending."""
        await self._write(
            "UPDATE dispatches SET tries = tries + 1, error = ? WHERE task_id = ? AND state = 'pending'",
            (error[:MAX_ERROR], task_id),
        )

    async def _write(self, statement: str, values: tuple[str | None, ...]) -> None:
        def work() -> None:
            with self._connection:
                self._connection.execute(statement, values)

        await self._ask(work)

    async def pending(self) -> list[Dispatch]:
        """Return what waits, oldest first."""
        return await self._ask(lambda: self._rows("WHERE state = 'pending' ORDER BY number"))

    async def find(self, task_id: str) -> Dispatch:
        """Return one task's row; raises `TaskUnknown`."""
        found = await self._ask(lambda: self._find(task_id))
        if found is None:
            raise TaskUnknown(f"there is no task {task_id[:128]}")
        return found

    async def page(self, *, after: int, limit: int) -> list[Dispatch]:
        """Return some rows, newest first, that are older than the one numbered `after` (0: all)."""
        return await self._ask(
            lambda: self._rows(
                "WHERE ?1 = 0 OR number < ?1 ORDER BY number DESC LIMIT ?2", after, min(limit, MAX_PAGE)
            )
        )

    def _find(self, task_id: str) -> Dispatch | None:
        return next(iter(self._rows("WHERE task_id = ?", task_id)), None)

    def _rows(self, condition: str, *values: str | int) -> list[Dispatch]:
        found = self._connection.execute(f"SELECT {_COLUMNS} FROM dispatches {condition}", values)  # noqa: S608 - ours
        return [_read(row) for row in found]

    def _now(self) -> str:
        return self._clock().isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read(row: tuple[Any, ...]) -> Dispatch:
    number, task_id, spec, key, state, *rest = row
    return Dispatch(number, task_id, spec, key, State(state), *rest)


@asynccontextmanager
async def open_ledger(
    home: Path, *, clock: Callable[[], datetime], new_id: Callable[[], str], kept: int = MAX_KEPT
) -> AsyncGenerator[Ledger, None]:
    """Own the record in a state directory, and its lock: nobody else writes there meanwhile."""
    path = home / "dispatches.db"
    place.make_directories(home, path)
    place.refuse_network(home)
    with place.locked(home / "lock"):
        place.make_file(path)
        try:
            migration.migrate(path, "coordinator")
            connection = connect(path)
        except apsw.Error as error:
            raise JournalError(f"{path} cannot be opened: {error}") from error
        try:
            await trio.lowlevel.checkpoint()
            yield Ledger(connection, clock, new_id, kept)
        finally:
            connection.close()
