"""A group of commits: everything that goes into one transaction, built while the one before is being synced.

Keeps J4: events and tables are written together, each table by one statement from one JSON array (row by row
the writer thread would fight the event loop for the interpreter at every row). The store fills a group and
hands it to the writer; `write` is the only SQL that changes the journal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any, NamedTuple

import apsw
import trio

from orchestrator.core import events as e
from orchestrator.core.model import Agent, AgentId, Control, Spend, State, Task, TaskId, Usage
from orchestrator.journal import rows
from orchestrator.journal import statements as sql
from orchestrator.journal.encoding import chained, dump, dump_rows, iso_cached
from orchestrator.journal.figures import spend_row
from orchestrator.journal.switch_rows import control_rows
from orchestrator.journal.verify import Heads

#: Events are indexed by task this many at a time: at every append, each task would cost a page of the index.
INDEXED = 1024
#: What one transaction may hold before the next is begun.
MAX_EVENTS = 2000
MAX_CHARACTERS = 8 * 1024 * 1024
#: The same where the disk is short: the room that the write-ahead log is sure of must do for it.
FEW_EVENTS = 200
FEW_CHARACTERS = 512 * 1024

#: The events that tell more than what they make of their agent.
_TELLING = {e.AgentSpawning, e.AgentRunning, e.AgentPhase, e.AgentTurn, e.GatePassed, e.GateRejected}


def clean(text: str) -> str:
    """Return the text as UTF-8 and SQLite can hold it."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a client was answered under an idempotency key (J10); the key is scoped by its caller already."""

    key: str
    fingerprint: str
    status: int
    body: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to whom, and what came of it."""

    actor: str
    action: str
    target: str
    outcome: str
    detail: str = ""


class Step(NamedTuple):
    """One event on its way: its row, and the state before and after it."""

    recorded: e.Recorded
    row: str
    before: State
    after: State


@dataclass(slots=True)
class Group:
    """Rows and consequences of one transaction; `done` is set once it is durable, or has failed."""

    state: State
    heads: Heads
    #: Whether it should stay small.
    small: bool = False
    done: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None
    recorded: list[e.Recorded] = field(default_factory=list)
    agents: dict[AgentId, rows.Touched[Agent]] = field(default_factory=dict)
    tasks: dict[TaskId, rows.Touched[Task]] = field(default_factory=dict)
    control: Control | None = None
    #: By their days.
    spends: dict[date | None, Spend] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    audit: list[list[Any]] = field(default_factory=list)
    characters: int = 0
    _events: list[str] = field(default_factory=list)
    _verdicts: list[list[Any]] = field(default_factory=list)
    _turns: list[list[Any]] = field(default_factory=list)
    _messages: list[list[Any]] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether it should take no more."""
        if self.small:
            return len(self._events) >= FEW_EVENTS or self.characters >= FEW_CHARACTERS
        return len(self._events) >= MAX_EVENTS or self.characters >= MAX_CHARACTERS

    def add(self, step: Step) -> None:
        """Take in an event, and what it made of the state."""
        recorded, after = step.recorded, step.after
        self.recorded.append(recorded)
        self._events.append(step.row)
        self.characters += len(step.row)
        event = recorded.event
        before = step.before
        if isinstance(event, e.SayingEvent) and event.content is not None:
            self._messages.append([recorded.seq, event.agent_id, event.content])
            self.characters += len(event.content)
        if after.agents is not before.agents and (agent_id := event.agent_id) is not None:
            agent, agent_before = after.agents.get(agent_id), before.agents.get(agent_id)
            if agent is not None and agent is not agent_before:
                self._touch_agent(recorded, agent, agent_before)
        if after.tasks is not before.tasks and (task_id := event.task_id) is not None:
            task, task_before = after.tasks.get(task_id), before.tasks.get(task_id)
            if task is not None and task is not task_before:
                self._touch_task(recorded, task)
        if after.control is not before.control:
            self.control = after.control
        if after.spend is not before.spend:
            self.spends[after.spend.day] = after.spend

    def add_audit(self, heads: Heads, now: datetime, entry: AuditEntry) -> Heads:
        """Take in an entry of the audit trail; return the ends of the chains after it."""
        seq, words = (
            heads.audit_seq + 1,
            (entry.actor, entry.action, entry.target, entry.outcome, entry.detail),
        )
        fields: list[Any] = [seq, iso_cached(now), *map(clean, words)]
        digest = chained(heads.audit_hash, dump(fields))
        self.audit.append([*fields, digest])
        return replace(heads, audit_seq=seq, audit_hash=digest)

    def _touch_agent(self, recorded: e.Recorded, agent: Agent, before: Agent | None) -> None:
        touched = self.agents.get(agent.id)
        if touched is None:
            touched = self.agents[agent.id] = rows.Touched(agent, recorded.seq, before=before)
        touched.value, touched.last_seq = agent, recorded.seq
        if type(recorded.event) in _TELLING:
            self._tell_agent(recorded, agent, touched)

    def _tell_agent(self, recorded: e.Recorded, agent: Agent, touched: rows.Touched[Agent]) -> None:
        """Take in what only the event tells."""
        match recorded.event:
            case e.AgentSpawning():
                touched.first_seq = recorded.seq
            case e.AgentRunning(sandbox=str(sandbox)) | e.AgentPhase(sandbox=str(sandbox)):
                touched.sandbox = rows.plain(sandbox)
            case e.AgentTurn() as turn:
                touched.exit_code = touched.exit_code if turn.exit_code is None else turn.exit_code
                self._turns.append(
                    [
                        recorded.seq, agent.id, agent.task_id, turn.turn, rows.plain(turn.stop_reason),
                        turn.exit_code, turn.duration_ms, turn.prompt or turn.turn, rows.plain(turn.model),
                        *_spent(turn.usage),
                    ]
                )  # fmt: skip
            case e.GatePassed(verdict=verdict) | e.GateRejected(verdict=verdict):
                self._verdicts.append(
                    [
                        recorded.seq, agent.id, agent.task_id, rows.plain(verdict.gate),
                        int(verdict.approved), verdict.round, rows.plain(verdict.commit),
                        verdict.exit_code, verdict.duration_ms, verdict.tests,
                    ]
                )  # fmt: skip

    def _touch_task(self, recorded: e.Recorded, task: Task) -> None:
        touched = self.tasks.get(task.id)
        if touched is None:
            touched = self.tasks[task.id] = rows.Touched(task, recorded.seq)
        touched.value, touched.last_seq = task, recorded.seq
        if isinstance(recorded.event, e.TaskSubmitted):
            touched.first_seq = recorded.seq

    def statements(self) -> list[tuple[str, str]]:
        """Return what to execute, one statement a table, each with its JSON array of rows."""
        little = {name for name, touched in self.agents.items() if rows.changed_little(touched)}
        queue = [
            rows.queue_row(touched.value)
            for touched in self.agents.values()
            if rows.queue_changed(touched.before, touched.value)
        ]
        receipts = [
            [clean(r.key), clean(r.fingerprint), r.status, clean(r.body), iso_cached(r.created_at)]
            for r in self.receipts
        ]
        tables: list[tuple[str, list[Any]]] = [
            (sql.AGENTS, [rows.agent_row(self.agents[name]) for name in self.agents if name not in little]),
            (sql.AGENTS_CHANGED, [rows.little_row(self.agents[name]) for name in little]),
            (sql.TASKS, [rows.task_row(touched) for touched in self.tasks.values()]),
            (sql.QUEUE, queue),
            (sql.SETTINGS, control_rows(self.control) if self.control else []),
            (sql.SPEND, [spend_row(spend) for spend in self.spends.values()]),
            (sql.VERDICTS, self._verdicts),
            (sql.TURNS, self._turns),
            (sql.MESSAGES, self._messages),
            (sql.RECEIPTS, receipts),
            (sql.AUDIT, self.audit),
        ]
        return [
            *self._event_statements(),
            *((statement, dump_rows(table)) for statement, table in tables if table),
        ]

    def _event_statements(self) -> Iterator[tuple[str, str]]:
        if self.recorded:
            yield sql.EVENTS, f"[{','.join(self._events)}]"
            unindexed = indexed(self.recorded[0].seq - 1)
            if (until := indexed(self.recorded[-1].seq)) > unindexed:
                yield sql.INDEX, dump([unindexed, until])


def _spent(usage: Usage | None) -> list[float | None]:
    """Return what a turn cost, as the last columns of its row."""
    if usage is None:
        return [None] * 5
    return [
        usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens,
        usage.cost_usd,
    ]  # fmt: skip


def write(connection: apsw.Connection, statements: list[tuple[str, str]], remedies: Iterator[str]) -> None:
    """Execute the statements in one transaction, durable on return; an error leaves the outcome unknown.

    A full disk is an error only once there are no more `remedies`, each of which makes room.
    """
    while True:
        try:
            _transact(connection, statements)
        except apsw.FullError:
            # The one error whose outcome is known, also at COMMIT: some page could not be written to the log,
            # so the frame that commits, the last one, is not there, and SQLite has rolled back. Were it there
            # after all, the events' numbers would be taken and the repetition would fail.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if next(remedies, None) is None:
                raise
        else:
            return


def _transact(connection: apsw.Connection, statements: list[tuple[str, str]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement, table in statements:
        connection.execute(statement, (table,))
    connection.execute("COMMIT")


def indexed(seq: int) -> int:
    """Return up to which event the index by task goes when the journal ends at `seq`."""
    return seq - seq % INDEXED
