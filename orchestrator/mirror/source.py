"""What ought to be in Valkey, from the journal: of whom an event told, of any keys, and of everything.

The invariant: an entry is made from what is committed, from the state where it is live, else from the tables.
What has ended leaves the state in the very commit that may have changed it last, so both are looked at.
Called by `valkey` and `audit`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any

from orchestrator.core.model import AgentId, State, TaskId
from orchestrator.core.moment import iso
from orchestrator.journal.archive import agents, tasks
from orchestrator.journal.encoding import dump
from orchestrator.journal.store import Store
from orchestrator.mirror.view import (
    AGENT,
    KEEP,
    TASK,
    Entry,
    Place,
    Touched,
    agent_entry,
    place,
    task_entry,
)

#: Entries that are made or asked for at once: what the event loop is kept from for a moment.
PAGE = 100
#: What a key of ours may end with: everything else was put there by others.
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_OF = "IN (SELECT value FROM json_each(?))"


class Source:
    """The journal, as Valkey should have it."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store, self._clock = store, clock

    async def of(self, touched: Touched) -> tuple[list[Entry], list[Place]]:
        """Return the entries and places of these; without a value where there should be none."""
        state, now = self._store.state, self._clock()
        gone_tasks = dump([name for name in touched.tasks if TaskId(name) not in state.tasks])
        gone_agents = dump([name for name in touched.agents if AgentId(name) not in state.agents])
        old_tasks, old_agents = {}, {}
        if gone_tasks != gone_agents:  # else there are none of either
            stored = await self._store.read(
                lambda c: (
                    tasks(c, f"WHERE t.id {_OF}", (gone_tasks,)),
                    agents(c, f"WHERE id {_OF}", (gone_agents,)),
                )
            )
            old_tasks = {task.id: task for task in stored[0]}
            old_agents = {agent.id: agent for agent in stored[1]}
        entries, places = list[Entry](), list[Place]()
        for name in sorted(touched.tasks):
            task = state.tasks.get(TaskId(name)) or old_tasks.get(TaskId(name))
            agent = state.agents.get(task.agent_id) if task else None
            entries.append(task_entry(task, agent, now) if task else Entry(TASK + name))
            places.append(place(task, agent) if task else Place(name))
        for name in sorted(touched.agents):
            agent = state.agents.get(AgentId(name)) or old_agents.get(AgentId(name))
            entries.append(agent_entry(agent, now) if agent else Entry(AGENT + name))
        return entries, places

    async def of_keys(self, keys: Iterable[str]) -> list[Entry]:
        """Return the entries of keys that somebody found; without a value where there should be none."""
        names = {key: _NAME.fullmatch(key.removeprefix(TASK).removeprefix(AGENT)) for key in keys}
        known = Touched(
            frozenset(name[0] for key, name in names.items() if name and key.startswith(TASK)),
            frozenset(name[0] for key, name in names.items() if name and key.startswith(AGENT)),
        )
        entries, _ = await self.of(known)
        return entries + [Entry(key) for key, name in names.items() if not name]

    async def stale(self, prefix: str, keys: Iterable[str]) -> list[str]:
        """Return which of these keys, found in Valkey, should not be there."""
        names = {key.removeprefix(prefix): key for key in keys}
        left = [name for name in names if not self._lives(prefix, name)]
        asked = dump([name for name in left if _NAME.fullmatch(name)])
        table = "tasks" if prefix == TASK else "agents"
        sql = f"SELECT id FROM {table} WHERE id {_OF} AND completed_at >= ?"  # noqa: S608 - ours
        kept = set(await ids(self._store, sql, asked, self._since)) if asked != "[]" else set()
        # Who was looked for in the tables too early is in the state by now.
        return [names[name] for name in left if name not in kept and not self._lives(prefix, name)]

    def _lives(self, prefix: str, name: str) -> bool:
        state = self._store.state
        return TaskId(name) in state.tasks if prefix == TASK else AgentId(name) in state.agents

    def queue(self, state: State) -> list[Place]:
        """Return the places of all who wait in the state."""
        found = (place(task, state.agents.get(task.agent_id)) for task in state.tasks.values())
        return [each for each in found if each.score is not None]

    def walk(self, state: State) -> Walk:
        """Return the way through everything there should be."""
        return Walk(self._store, state, self._since)

    @property
    def _since(self) -> str:
        return iso(self._clock() - KEEP)


class Walk:
    """All who are live now or ended lately, page by page; who ends meanwhile may come twice."""

    def __init__(self, store: Store, state: State, since: str) -> None:
        self._store, self._since = store, since
        self._live = _live(state)
        self._stages = [("tasks", ""), ("agents", "")]

    async def next(self) -> Touched | None:
        """Return the next page, or None at the end."""
        if (page := next(self._live, None)) is not None:
            return page
        while self._stages:
            table, after = self._stages[0]
            sql = f"SELECT id FROM {table} WHERE completed_at >= ? AND id > ? ORDER BY id LIMIT ?"  # noqa: S608
            if names := await ids(self._store, sql, self._since, after, PAGE):
                self._stages[0] = (table, names[-1])
                return Touched(**{table: frozenset(names)})
            self._stages.pop(0)
        return None


async def ids(store: Store, sql: str, *values: str | int) -> list[str]:
    """Return the ids that a question to the tables finds."""
    found: list[Any] = await store.read(lambda c: c.execute(sql, values).fetchall())
    return [str(name) for (name,) in found]


def _live(state: State) -> Iterator[Touched]:
    """Yield the ids of the live, page by page."""
    tasks_left, agents_left = iter(state.tasks), iter(state.agents)
    while of_tasks := frozenset(islice(tasks_left, PAGE)):
        yield Touched(tasks=frozenset(of_tasks))
    while of_agents := frozenset(islice(agents_left, PAGE)):
        yield Touched(agents=frozenset(of_agents))
