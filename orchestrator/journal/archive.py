"""The read side of the journal: what has been, from the tables, through a connection of its own.

Every answer is bounded and shows only what is committed. Reads run in one thread, so that a long list never
holds up the event loop or a commit. `Store` is an `Archive` that can also write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import apsw
import trio

from orchestrator.core.change import counts_of
from orchestrator.core.events import Recorded, TaskSubmitted
from orchestrator.core.model import Agent, State, Task, TaskId, TaskStatus, Verdict, changed
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import JournalCorrupt
from orchestrator.journal import rows
from orchestrator.journal.encoding import dump, parse_event, read_event
from orchestrator.journal.figures import read_spend
from orchestrator.journal.group import Receipt, indexed
from orchestrator.journal.queue_rows import statuses
from orchestrator.journal.switch_rows import read_control

T = TypeVar("T")

EVENT_COLUMNS = "seq, id, type, time, agent_id, task_id, data, hash"
OF_TASK = (
    f"SELECT {EVENT_COLUMNS} FROM events WHERE seq IN (SELECT seq FROM events_of_task"  # noqa: S608
    " WHERE task_id = ? AND seq > ?)"
)

#: The most that one question is answered with, and how far back from the end `latest` looks.
MAX_ROWS, RECENT = 1000, 20_000


class Message(NamedTuple):
    """What was said to a model and by it, at an event."""

    seq: int
    content: str


class Archive:
    """The committed past, as far as the tables hold it."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._reading = trio.CapacityLimiter(1)

    async def read(self, question: Callable[[apsw.Connection], T]) -> T:
        """Return the answer to a question about one moment of the database, asked in a thread."""

        def ask() -> T:
            self._connection.execute("BEGIN")
            try:
                return question(self._connection)
            finally:
                self._connection.execute("COMMIT")

        return await trio.to_thread.run_sync(ask, limiter=self._reading)

    async def events_after(
        self,
        seq: int,
        *,
        limit: int = 500,
        types: Collection[str] | None = None,
        agent_id: str | None = None,
        task_id: str | None = None,
    ) -> list[Recorded]:
        """Return up to `limit` events after the sequence number that pass every filter, oldest first."""
        wheres, values = list[str](), list[Any]()
        if types is not None:
            wheres.append("type IN (SELECT value FROM json_each(?))")
            values.append(dump(sorted(types)))
        if agent_id is not None:
            wheres.append("agent_id = ?")
            values.append(agent_id)
        if task_id is not None:
            wheres.append("task_id = ?")
            values.append(task_id)
        limit = max(1, min(limit, MAX_ROWS))
        condition = f"{' AND '.join(wheres)} ORDER BY seq LIMIT ?" if wheres else "true ORDER BY seq LIMIT ?"

        def question(connection: apsw.Connection) -> list[Any]:
            about = task_id
            if agent_id is not None and task_id is None:  # events are indexed by task alone
                about = connection.execute("SELECT task_id FROM agents WHERE id = ?", (agent_id,)).get
            if about is None:
                plain = f"SELECT {EVENT_COLUMNS} FROM events WHERE seq > ? AND {condition}"  # noqa: S608
                return connection.execute(plain, (seq, *values, limit)).fetchall()
            until = indexed(connection.execute("SELECT coalesce(max(seq), 0) FROM events").get)
            old = connection.execute(f"{OF_TASK} AND {condition}", (about, seq, *values, limit)).fetchall()
            new = f"SELECT {EVENT_COLUMNS} FROM events WHERE seq > ? AND {condition}"  # noqa: S608
            room = limit - len(old)
            fresh = (max(seq, until), *values, room)
            return old + (connection.execute(new, fresh).fetchall() if room else [])

        return [read_event(row) for row in await self.read(question)]

    async def latest(self, types: Collection[str]) -> list[Recorded]:
        """Return the events of these types among the last 20,000, oldest first, at most 1,000."""
        sql = (
            f"SELECT {EVENT_COLUMNS} FROM events WHERE seq > (SELECT max(seq) FROM events) - ?"  # noqa: S608
            " AND type IN (SELECT value FROM json_each(?)) ORDER BY seq DESC LIMIT ?"
        )
        values = (RECENT, dump(sorted(types)), MAX_ROWS)
        found = await self.read(lambda c: c.execute(sql, values).fetchall())
        return [read_event(row) for row in reversed(found)]

    async def stored_agent(self, agent_id: str) -> Agent | None:
        """Return the agent as the tables hold it."""
        found = await self.read(lambda c: agents(c, "WHERE id = ?", (agent_id,)))
        return found[0] if found else None

    async def stored_task(self, task_id: str) -> Task | None:
        """Return the task as the tables hold it."""
        found = await self.read(lambda c: tasks(c, "WHERE t.id = ?", (task_id,)))
        return found[0] if found else None

    async def task_statuses(self, task_ids: Collection[str]) -> dict[TaskId, TaskStatus]:
        """Return how those of the tasks stand that the tables know."""
        return await self.read(lambda c: statuses(c, task_ids)) if task_ids else {}

    async def attempts(self, task_id: str) -> int:
        """Return the highest number that an attempt at the task ever had; 0 for an unknown task."""
        sql = "SELECT coalesce(max(attempt), 0) FROM agents WHERE task_id = ?"
        return int(await self.read(lambda c: c.execute(sql, (task_id,)).get))

    async def agents_of(self, task_id: str) -> list[Agent]:
        """Return the latest 1,000 attempts at the task, first attempt first."""
        condition = "WHERE task_id = ? ORDER BY attempt DESC LIMIT ?"
        found = await self.read(lambda c: agents(c, condition, (task_id, MAX_ROWS)))
        return found[::-1]

    async def followed(self, found: Sequence[Agent]) -> list[Agent]:
        """Return the agents with those who tried their tasks next, for whatever reason that was.

        A retry by hand comes after the end's own event, which therefore cannot name it.
        """
        unnamed = [agent.id for agent in found if agent.status.ended and agent.next_agent_id is None]
        if not unnamed:
            return list(found)
        sql = (
            "SELECT a.id, (SELECT n.id FROM agents n WHERE n.task_id = a.task_id AND n.attempt > a.attempt"
            " ORDER BY n.attempt LIMIT 1) FROM agents a WHERE a.id IN (SELECT value FROM json_each(?))"
        )
        pairs: list[Any] = await self.read(lambda c: c.execute(sql, (dump(unnamed),)).fetchall())
        after = dict(pairs)
        return [
            changed(agent, next_agent_id=after[agent.id]) if after.get(agent.id) else agent for agent in found
        ]

    async def list_agents(
        self,
        *,
        status: str | None = None,
        task_id: str | None = None,
        role: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> tuple[list[Agent], str | None]:
        """Return a page of agents, newest first, and the next page's cursor; ValueError for a bad cursor."""
        filters = {"status": status, "task_id": task_id, "agent_type": role}
        condition, values, limit = _page("spawned_seq", filters, limit, after)

        def question(connection: apsw.Connection) -> tuple[list[Agent], str | None]:
            found = agents(connection, condition, values)
            if len(found) <= limit:
                return found, None
            sql = "SELECT spawned_seq FROM agents WHERE id = ?"
            return found[:limit], str(connection.execute(sql, (found[limit - 1].id,)).get)

        return await self.read(question)

    async def list_tasks(
        self,
        *,
        status: str | None = None,
        reason: str | None = None,
        repository: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> tuple[list[Task], str | None]:
        """Return a page of tasks, newest first, and the next page's cursor; ValueError for a bad cursor."""
        filters = {"t.status": status, "t.reason": reason, "t.repo": repository}
        condition, values, limit = _page("t.submitted_seq", filters, limit, after)

        def question(connection: apsw.Connection) -> tuple[list[Task], str | None]:
            found = tasks(connection, condition, values)
            if len(found) <= limit:
                return found, None
            sql = "SELECT submitted_seq FROM tasks WHERE id = ?"
            return found[:limit], str(connection.execute(sql, (found[limit - 1].id,)).get)

        return await self.read(question)

    async def messages(self, agent_id: str, *, after: int = 0, limit: int = 100) -> list[Message]:
        """Return what was said to and by the agent's model after an event, oldest first."""
        sql = "SELECT seq, content FROM messages WHERE agent_id = ? AND seq > ? ORDER BY seq LIMIT ?"
        found: list[Any] = await self.read(
            lambda c: c.execute(sql, (agent_id, after, _bounded(limit))).fetchall()
        )
        return [Message(int(seq), str(content)) for seq, content in found]

    async def receipt(self, key: str) -> Receipt | None:
        """Return what was answered under the idempotency key."""
        sql = "SELECT key, fingerprint, status, body, created_at FROM idempotency WHERE key = ?"
        found = await self.read(lambda c: c.execute(sql, (key,)).fetchone())
        if found is None:
            return None
        return Receipt(found[0], found[1], found[2], found[3], datetime.fromisoformat(found[4]))

    async def ended(self) -> dict[str, int]:
        """Return how many tasks have each of the final statuses."""
        ended = "status IN ('completed', 'failed', 'cancelled')"
        sql = f"SELECT status, count(*) FROM tasks WHERE {ended} GROUP BY 1"  # noqa: S608
        found: list[Any] = await self.read(lambda c: c.execute(sql).fetchall())
        return {str(status): int(number) for status, number in found}


def agents(connection: apsw.Connection, condition: str, values: Iterable[Any] = ()) -> list[Agent]:
    """Return the agents that meet the condition, their verdicts with them."""
    sql = f"SELECT {rows.AGENT_COLUMNS} FROM agents {condition}"  # noqa: S608 - conditions are ours
    found = connection.execute(sql, tuple(values)).fetchall()
    if not found:
        return []
    verdicts: dict[Any, list[Verdict]] = {}
    sql = (
        "SELECT e.type, v.agent_id, e.task_id, e.data FROM verdicts v JOIN events e ON e.seq = v.seq"
        " WHERE v.agent_id IN (SELECT value FROM json_each(?)) ORDER BY v.seq"
    )
    for name, agent_id, task_id, data in connection.execute(sql, (dump([row[0] for row in found]),)):
        event = parse_event(name, agent_id, task_id, data)
        if hasattr(event, "verdict"):
            verdicts.setdefault(agent_id, []).append(event.verdict)
    return [rows.read_agent(row, tuple(verdicts.get(row[0], ()))) for row in found]


def tasks(connection: apsw.Connection, condition: str, values: Iterable[Any] = ()) -> list[Task]:
    """Return the tasks that meet the condition, their specifications with them."""
    sql = (
        f"SELECT {rows.TASK_COLUMNS} FROM tasks t CROSS JOIN events e ON e.seq = t.submitted_seq {condition}"  # noqa: S608
    )
    return [rows.read_task(row, _spec(row[0], row[-1])) for row in connection.execute(sql, tuple(values))]


def _spec(task_id: str, data: str) -> TaskSpec:
    event = parse_event(TaskSubmitted.name, None, task_id, data)
    if not isinstance(event, TaskSubmitted):
        raise JournalCorrupt(f"task {task_id} was submitted by an event of another type")
    return event.spec


def live_state(connection: apsw.Connection, seq: int) -> State:
    """Return the state that the tables hold: what is not over, and the switches. History is not read."""
    living = {agent.id: agent for agent in agents(connection, "WHERE clean = 0")}
    condition = (
        "WHERE t.status IN ('pending', 'assigned', 'executing')"
        " OR t.id IN (SELECT task_id FROM agents WHERE clean = 0)"
    )
    found = tasks(connection, condition)
    open_tasks = {task.id: task for task in found if not task.status.ended or task.agent_id in living}
    found_settings = connection.execute("SELECT key, value FROM queue_settings").fetchall()
    settings = {str(key): str(value) for key, value in found_settings}
    return State(
        tasks=State().tasks.update(open_tasks),
        agents=State().agents.update(living),
        control=read_control(settings),
        **counts_of(living.values()),
        spend=read_spend(connection.execute("SELECT * FROM spend ORDER BY day")),
        seq=seq,
    )


def _bounded(limit: int) -> int:
    return max(1, min(limit, MAX_ROWS))


def _page(
    order: str, filters: dict[str, str | None], limit: int, after: str | None
) -> tuple[str, list[Any], int]:
    """Return condition and values of a page, newest first, with one row more to see whether more follow."""
    given = {name: value for name, value in filters.items() if value is not None}
    wheres, values = [f"{name} = ?" for name in given], list[Any](given.values())
    if after is not None:
        if not re.fullmatch("[0-9]{1,18}", after):
            raise ValueError(f"{after[:40]!r} is no cursor of ours")
        wheres.append(f"{order} < ?")
        values.append(int(after))
    limit = _bounded(limit)
    where = f"WHERE {' AND '.join(wheres)} " if wheres else ""
    return f"{where}ORDER BY {order} DESC LIMIT ?", [*values, limit + 1], limit
