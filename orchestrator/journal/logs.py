"""What agents print, by line, in a file of its own: a flood here never slows a commit of the journal.

Keeps J15: every agent has a ceiling in bytes and in lines, with exactly one mark where it was cut off, and so
has what waits in memory. Losing the last moment of a log with the power is no loss of truth, and a log that
cannot be written is said once and never stops the orchestrator. Agents' runs write; the API reads and
follows.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import apsw
import trio

from orchestrator.core.moment import iso
from orchestrator.journal.encoding import dump
from orchestrator.journal.group import clean

LOG = logging.getLogger(__name__)

#: Ceilings of one agent's log.
MAX_BYTES = 64 * 1024 * 1024
MAX_LINES = 500_000
#: Characters of a line.
MAX_LINE = 16 * 1024
#: What may wait in memory for an agent before its writer has to wait too.
MAX_PENDING_BYTES = 1024 * 1024
MAX_PENDING_LINES = 5000
#: What one transaction takes.
BATCH_LINES = 5000
BATCH_BYTES = 8 * 1024 * 1024
DRAIN_S = 5.0

#: The stream of our own remarks in an agent's log.
SYSTEM = "system"

_INSERT = (
    "INSERT INTO agent_logs (id, agent_id, timestamp, stream, content)"
    " SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM jsonb_each(?)"
)
_TOTALS = (
    "INSERT INTO log_totals (agent_id, bytes, lines, truncated)"
    " SELECT value->>0, value->>1, value->>2, value->>3 FROM jsonb_each(?) WHERE true"
    " ON CONFLICT (agent_id) DO UPDATE SET bytes = excluded.bytes, lines = excluded.lines,"
    " truncated = excluded.truncated"
)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of an agent's log; ids grow over all agents, so that a reader can follow by id."""

    id: int
    agent_id: str
    time: datetime
    stream: str
    content: str


@dataclass(slots=True)
class _Log:
    """One agent's account: what it has written, and what of it still waits."""

    bytes: int = 0
    lines: int = 0
    truncated: bool = False
    pending_bytes: int = 0
    pending_lines: int = 0
    dropped: int = 0
    #: Lines that came this far and could not be written.
    lost: int = 0
    last_id: int = 0


class LogBook:
    """The agents' logs."""

    def __init__(
        self,
        writer: apsw.Connection,
        reader: apsw.Connection,
        clock: Callable[[], datetime],
        live: Iterable[str] = (),
        *,
        max_bytes: int = MAX_BYTES,
        max_lines: int = MAX_LINES,
    ) -> None:
        self._writer, self._reader, self._clock = writer, reader, clock
        self._max_bytes, self._max_lines = max_bytes, max_lines
        self._writing, self._reading = trio.CapacityLimiter(1), trio.CapacityLimiter(1)
        self._pending: deque[tuple[str, int, list[Any]]] = deque()
        self._arrived = trio.lowlevel.ParkingLot()
        self._written = trio.lowlevel.ParkingLot()
        self._next_id = 1 + writer.execute("SELECT coalesce(max(id), 0) FROM agent_logs").get
        sql = (
            "SELECT agent_id, bytes, lines, truncated FROM log_totals"
            " WHERE agent_id IN (SELECT value FROM json_each(?))"
        )
        self._logs = {
            str(row[0]): _Log(row[1], row[2], bool(row[3]))
            for row in writer.execute(sql, (dump(list(live)),))
        }
        self._batches = 0
        self._failing = False
        #: Takes out of a batch of rows, as JSON, what must not be kept; set by the assembly, run in a thread.
        self.redacted: Callable[[str], str] = str

    def write_nowait(self, agent_id: str, stream: str, content: str) -> None:
        """Append a line to the agent's log; one that finds no room is dropped, counted and marked."""
        log = self._logs.setdefault(agent_id, _Log())
        if log.truncated:
            return
        if self._crowded(log):
            log.dropped += 1
            return
        if not self._failing:  # else the mark would be lost as well
            self._mark(agent_id, log)
        content = clean(content)
        if len(content) > MAX_LINE:
            content = f"{content[:MAX_LINE]} [{len(content) - MAX_LINE} characters cut]"
        size = _size(content)
        if log.bytes + size > self._max_bytes or log.lines >= self._max_lines:
            log.truncated = True
            stream, content = (
                SYSTEM,
                f"[truncated: this log has reached {log.bytes} bytes, {log.lines} lines]",
            )
        self._append(agent_id, log, stream, content)

    async def write(self, agent_id: str, stream: str, content: str) -> None:
        """Append a line to the agent's log, after waiting while too much of this agent's waits already."""
        log = self._logs.setdefault(agent_id, _Log())
        if self._crowded(log):
            while self._crowded(log):
                await self._written.park()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        self.write_nowait(agent_id, stream, content)

    async def read(
        self, agent_id: str, *, after: int = 0, limit: int = 1000, stream: str | None = None
    ) -> list[LogLine]:
        """Return up to `limit` lines of the agent's log after the id, oldest first."""
        sql = "SELECT id, agent_id, timestamp, stream, content FROM agent_logs WHERE agent_id = ? AND id > ?"
        values: list[Any] = [agent_id, after]
        if stream is not None:
            sql += " AND stream = ?"
            values.append(stream)
        values.append(max(1, min(limit, 10_000)))
        found: list[Any] = await trio.to_thread.run_sync(
            lambda: self._reader.execute(sql + " ORDER BY id LIMIT ?", values).fetchall(),
            limiter=self._reading,
        )
        return [LogLine(row[0], row[1], datetime.fromisoformat(row[2]), row[3], row[4]) for row in found]

    async def wait_for_more(self, agent_id: str, after: int) -> None:
        """Wait until the agent's log holds a line after the id."""
        while True:
            batches = self._batches
            log = self._logs.get(agent_id)
            if log is not None and log.last_id:
                await trio.lowlevel.checkpoint()
                if log.last_id > after:
                    return
            elif await self.read(agent_id, after=after, limit=1):
                return
            while self._batches == batches:
                await self._written.park()

    async def wait_written(self) -> None:
        """Wait until everything written so far can be read."""
        newest = self._next_id - 1
        await trio.lowlevel.checkpoint()
        while self._pending and self._pending[0][2][0] <= newest:
            await self._written.park()

    def forget(self, agent_id: str) -> None:
        """Drop the account of an agent that will write no more."""
        if (log := self._logs.pop(agent_id, None)) is not None:
            self._mark(agent_id, log)

    async def run(self) -> None:
        """Write what arrives until cancelled, and then the rest of it within a grace."""
        try:
            while True:
                while not self._pending:
                    await self._arrived.park()
                await self._write_batch()
        finally:
            with trio.move_on_after(DRAIN_S, shield=True):
                while self._pending:
                    await self._write_batch()

    def _crowded(self, log: _Log) -> bool:
        return log.pending_bytes >= MAX_PENDING_BYTES or log.pending_lines >= MAX_PENDING_LINES

    def _mark(self, agent_id: str, log: _Log) -> None:
        """Say in the log what is missing from it."""
        dropped, lost, log.dropped, log.lost = log.dropped, log.lost, 0, 0
        if dropped:
            self._append(agent_id, log, SYSTEM, f"[{dropped} lines were dropped here: they came too fast]")
        if lost:
            self._append(agent_id, log, SYSTEM, f"[{lost} lines were lost here: they could not be written]")

    def _append(self, agent_id: str, log: _Log, stream: str, content: str) -> None:
        size = _size(content)
        log.bytes += size
        log.lines += 1
        log.pending_bytes += size
        log.pending_lines += 1
        row = [self._next_id, agent_id, iso(self._clock()), clean(stream), content]
        self._next_id += 1
        self._pending.append((agent_id, size, row))
        self._arrived.unpark()

    async def _write_batch(self) -> None:
        # What is being written stays in the queue until it is: a cancellation here loses nothing.
        batch, size = [], 0
        for entry in self._pending:
            batch.append(entry)
            size += entry[1]
            if len(batch) >= BATCH_LINES or size >= BATCH_BYTES:
                break
        lines = dump([row for _, _, row in batch])
        accounts = {agent_id: self._logs[agent_id] for agent_id, _, _ in batch if agent_id in self._logs}
        totals = dump([[name, log.bytes, log.lines, int(log.truncated)] for name, log in accounts.items()])
        failed, failing = self._failing, False
        try:
            await trio.to_thread.run_sync(self._commit, lines, totals, limiter=self._writing)
        except apsw.Error as error:
            if not failed:
                LOG.warning("agents' logs cannot be written and are lost until they can: %s", error)
            failing = True
        self._failing = failing
        for agent_id, size, row in batch:
            self._pending.popleft()
            if (log := self._logs.get(agent_id)) is None:
                continue
            log.pending_bytes -= size
            log.pending_lines -= 1
            if failing:
                log.lost += 1
            else:
                log.last_id = row[0]
        if failed and not failing:
            for agent_id, log in self._logs.items():
                self._mark(agent_id, log)
        self._batches += 1
        self._written.unpark_all()

    def _commit(self, lines: str, totals: str) -> None:
        if self._writer.in_transaction:  # of one that failed to its very end
            self._writer.execute("ROLLBACK")
        with self._writer:  # rolled back on an error, and may be tried again: no promise hangs on it
            self._writer.execute(_INSERT, (self.redacted(lines),))
            self._writer.execute(_TOTALS, (totals,))


def _size(content: str) -> int:
    return len(content) if content.isascii() else len(content.encode())
