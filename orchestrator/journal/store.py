"""The store: the journal plus the state that follows from it; the only way to change either.

Decide, journal, evolve: a command is decided against the *head* (what is committed and what is on its way),
so that of two rivals one wins at once; its events join the group that the writer commits next; only when that
is durable does the committed `state` move on, the bus publish, and the caller hear of it (J2). A commit that
found the disk full is repeated on the room that the ballast gives up (`place`). After any other error its
outcome is unknown: nobody is answered, and the process ends and reads the journal anew. Called by supervise
and the API; opened by assembly.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import trio

from orchestrator.core.commands import Command, SubmitTask
from orchestrator.core.decide import decide
from orchestrator.core.events import Event, Recorded
from orchestrator.core.model import Agent, AgentId, Task, TaskId
from orchestrator.core.moment import whole_ms
from orchestrator.errors import DiskFull, JournalBroken, JournalError, KeyInUse
from orchestrator.journal.archive import Archive, live_state
from orchestrator.journal.attempts import Attempts
from orchestrator.journal.bus import Bus
from orchestrator.journal.committer import BALANCE_EVERY_S, Committer
from orchestrator.journal.counts import Counts, count_tasks
from orchestrator.journal.database import Connect, Files, connect, open_files
from orchestrator.journal.encoding import Redacted, as_it_is
from orchestrator.journal.following import follow, open_line
from orchestrator.journal.fresh import new_uuid, utc_now
from orchestrator.journal.group import AuditEntry, Group, Receipt
from orchestrator.journal.logs import LogBook
from orchestrator.journal.recent import Recent
from orchestrator.journal.steps import take_steps
from orchestrator.journal.thread import WriterThread, writer_thread
from orchestrator.journal.thrift import must_be_written
from orchestrator.journal.verify import Heads

__all__ = ["AuditEntry", "Counts", "Receipt", "Store", "open_store", "utc_now"]

#: Seconds that the last commits get when the writer is cancelled.
DRAIN_S = 5.0
#: Groups that may wait for the writer before callers have to.
MAX_GROUPS = 8

#: A receipt, or what makes one of the events that it stands for.
ReceiptOf = Receipt | Callable[[list[Recorded]], Receipt] | None


class Store(Archive):
    """The state, and what makes it durable."""

    def __init__(self, files: Files, clock: Callable[[], datetime], new_id: Callable[[], str]) -> None:
        super().__init__(files.reader)
        self._files, self._clock, self._new_id = files, clock, new_id
        self.state = live_state(files.writer, files.heads.seq)  #: Committed, so safe to show to clients.
        self.bus, self.room = Bus(self.state.seq), files.room
        self.waiting = open_line(self.state, files.writer)
        self.logs = LogBook(files.log_writer, files.log_reader, clock, live=self.state.agents.keys())
        self._head, self._heads, self._committed = self.state, files.heads, files.heads
        self._groups: deque[Group] = deque()
        self._writing: Group | None = None
        self._filled = trio.lowlevel.ParkingLot()
        self._moved = trio.lowlevel.ParkingLot()
        self._stopped: JournalError | None = None
        self._committer = Committer(files, clock)
        #: Whether a submission may give the agents of a repository a slot: None where nobody starts them.
        self.dispatched: Callable[[str], bool] | None = None
        self._attempts = Attempts(files.writer)
        self._recent_keys: Recent[str, None] = Recent()
        self.redacted: Redacted = as_it_is  #: Set by the assembly.

    async def submit(
        self, command: Command, *, receipt: ReceiptOf = None, audit: AuditEntry | None = None
    ) -> list[Recorded]:
        """Decide the command and return its events once they are durable, or raise `CommandRefused`.

        The receipt and the audit entry are stored in the same transaction. A caller that is cancelled while
        it waits undoes nothing. Raises `KeyInUse` where the receipt's key was just used, and `DiskFull`.
        """
        await self._wait_for_room()
        if isinstance(command, SubmitTask):
            if self.room.short:
                raise DiskFull
            stored = await self.task_statuses(command.spec.depends_on)
            known = self._attempts.statuses(stored, command.spec.depends_on)
            earlier = max(command.earlier_attempts, self._attempts.lately(TaskId(command.spec.task_id)))
            at_once = self.dispatched(command.spec.context.repository) if self.dispatched else False
            command = replace(command, earlier_attempts=earlier, at_once=at_once, known=known)
        events = decide(self._head, command, self._clock())
        if self.room.scarce and not must_be_written(command, events):
            audit = None
        return await self._append(events, receipt, audit)

    async def record(self, *events: Event, audit: AuditEntry | None = None) -> list[Recorded]:
        """Append facts and return them once durable; `IllegalTransition` comes before anything is written.

        Without any, it returns once all that was appended before is durable.
        """
        await self._wait_for_room()
        return await self._append(list(events), None, audit)

    async def note(self, *events: Event) -> None:
        """Append facts without waiting for the disk; what is appended later is durable after them."""
        await self._wait_for_room()
        self._join(list(events), None, None)

    async def audit(self, entry: AuditEntry, *, changed: bool = True) -> None:
        """Append to the hash-chained audit trail; durable on return.

        What has not `changed` anything leaves no entry where the room left is kept for ends.
        """
        await self._wait_for_room()
        await self._append([], None, entry if changed or not self.room.scarce else None)

    async def room_to_spare(self) -> None:
        """Wait while the room left is kept for ends: for whatever can wait with what it has to say."""
        await trio.lowlevel.checkpoint()
        while self.room.scarce and self._stopped is None:
            await self._moved.park()

    async def _append(
        self, events: list[Event], receipt: ReceiptOf, audit: AuditEntry | None
    ) -> list[Recorded]:
        group, all_recorded = self._join(events, receipt, audit)
        # Even what changes nothing waits here: it may have been decided by what is not durable yet.
        await group.done.wait()
        if group.error is not None:
            raise JournalBroken(f"a commit failed, so its outcome is unknown: {group.error}") from group.error
        return all_recorded

    def _join(
        self, events: list[Event], receipt: ReceiptOf, audit: AuditEntry | None
    ) -> tuple[Group, list[Recorded]]:
        """Evolve the head and join the next group, or raise and change nothing."""
        now = whole_ms(self._clock())
        steps, head, heads = take_steps(events, self._head, self._heads, now, self._new_id, self.redacted)
        all_recorded = [step.recorded for step in steps]
        receipt = receipt(all_recorded) if callable(receipt) else receipt
        if receipt is not None and receipt.key in self._recent_keys:
            raise KeyInUse
        # From here on nothing can fail: the head moves with the group.
        group = self._open_group()
        for step in steps:
            group.add(step)
            self._attempts.remember(step, head)
        if audit is not None:
            heads = group.add_audit(heads, now, audit)
        if receipt is not None:
            group.receipts.append(receipt)
            self._recent_keys.put(receipt.key, None)
        self._head, self._heads = head, heads
        group.state, group.heads = head, heads
        self._filled.unpark_all()
        return group, all_recorded

    def _open_group(self) -> Group:
        """Return the group that the next commit takes, other than the one being written."""
        last = self._groups[-1] if self._groups else None
        if last is None or last is self._writing or last.full:
            last = Group(self._head, self._heads, small=self.room.short)
            self._groups.append(last)
        return last

    async def _wait_for_room(self) -> None:
        while len(self._groups) >= MAX_GROUPS and self._stopped is None:
            await self._moved.park()
        if self._stopped is not None:
            raise self._stopped

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what arrives, logs too, until cancelled, and then the rest within a grace.

        Whoever still has facts to record while shutting down must be gone before this is cancelled: start it
        in a nursery around theirs. Raises `JournalBroken` when a commit failed.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.logs.run)
                with writer_thread() as thread:
                    task_status.started()
                    await self._write_groups(thread)
        except BaseExceptionGroup:
            if isinstance(self._stopped, JournalBroken):
                raise self._stopped from self._stopped.__cause__
            raise

    async def _write_groups(self, thread: WriterThread) -> None:
        try:
            while True:
                with trio.move_on_after(BALANCE_EVERY_S if self.room.scarce else math.inf):
                    while not self._groups:
                        await self._filled.park()
                if self._groups:
                    await self._write_group(thread)
                else:  # is there room again?
                    await thread.run(self._committer.job(Group(self._head, self._heads)))
                    self._moved.unpark_all()
        finally:
            with trio.move_on_after(DRAIN_S, shield=True):
                while self._groups and self._stopped is None:
                    await self._write_group(thread)
            self._stop(JournalError("the journal is closed: its writer has stopped"))

    async def _write_group(self, thread: WriterThread) -> None:
        # It stays first in the line until it is written: a cancellation before that loses nothing.
        group = self._writing = self._groups[0]
        try:
            await thread.run(self._committer.job(group))
        except Exception as error:
            broken = JournalBroken(f"a commit failed, so its outcome is unknown: {error}")
            broken.__cause__ = error
            self._stop(broken)
            raise broken from error
        self._groups.popleft()
        self._writing = None
        self.state, self._committed = group.state, group.heads
        follow(self.waiting, group)
        self.bus.publish(group.recorded, group.characters)
        group.done.set()
        self._moved.unpark_all()
        for agent_id in group.agents.keys() - group.state.agents.keys():
            self.logs.forget(agent_id)

    def _stop(self, error: JournalError) -> None:
        """Answer everybody who waits, and whoever comes, with the error."""
        if self._stopped is not None:
            return
        self._stopped = error
        for group in self._groups:
            group.error = error
            group.done.set()
        self._groups.clear()
        self._moved.unpark_all()

    async def wait_past(self, seq: int) -> None:
        """Wait until an event after the given one is committed; raise where none will ever be."""
        await trio.lowlevel.checkpoint()
        while self.state.seq <= seq:
            if self._stopped is not None:
                raise self._stopped
            await self._moved.park()

    async def find_agent(self, agent_id: str) -> Agent | None:
        """Return the agent, whether it lives or is long over."""
        return self.state.agents.get(AgentId(agent_id)) or await self.stored_agent(agent_id)

    async def find_task(self, task_id: str) -> Task | None:
        """Return the task, whether it is open or long over."""
        return self.state.tasks.get(TaskId(task_id)) or await self.stored_task(task_id)

    async def attempts(self, task_id: str) -> int:
        """Return the highest number that an attempt at the task ever had; 0 for an unknown task."""
        if not self._attempts.may_have(task_id):
            await trio.lowlevel.checkpoint()
            return 0
        return await super().attempts(task_id)

    async def counts(self) -> Counts:
        """Return how many tasks are at what."""
        return count_tasks(self.state, await self.ended(), self.waiting.delayed(self._clock()))

    async def head_hash(self) -> Heads:
        """Return the committed ends of both hash chains."""
        await trio.lowlevel.checkpoint()
        return self._committed

    def queue_position(self, agent_id: str) -> int | None:
        """Return the agent's place in the line, 1 for the next, or None where it does not wait."""
        return self.waiting.rank(AgentId(agent_id))


@asynccontextmanager
async def open_store(
    home: Path,
    database: Path,
    *,
    clock: Callable[[], datetime] = utc_now,
    new_id: Callable[[], str] = new_uuid,
    connect: Connect = connect,
) -> AsyncIterator[Store]:
    """Own the journal, checked and ready; `Store.run` must run for anything to be committed.

    Raises `JournalInUse`, `JournalMisplaced` or `JournalCorrupt` where it cannot be trusted.
    """
    with ExitStack() as stack:
        files = await trio.to_thread.run_sync(
            lambda: stack.enter_context(open_files(home, database, connect))
        )
        yield Store(files, clock, new_id)
