"""Appends a second: the journal beside SQLite with the same durability, in turns, median over rounds.

Each figure stands beside a floor of the same run: a raw group commit by the same library and settings, from
the main thread, of ready-made rows with the same bytes into the same tables, in groups of the size that the
journal made. It is what the disk and SQLite allow; what the journal adds is folding, hashing, encoding, the
thread, and waking everybody who waits. `ratio` is the figure over its floor. A *fact* is an event alone, a
*step* also changes its agent's row.

`trio` tells how much of that is Trio: the same raw commits, made by the journal's thread for as many children
that each wait for theirs and do nothing else, over the floor. No journal on Trio can have a better ratio.

The disk decides how much of the whole that is, so everything is measured twice: on this disk as it is, and
with syncs that take two milliseconds longer. Run as `python bench/journal.py [seconds a figure]`.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import apsw
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orchestrator.core.commands import AssignAgent, StartAgent, SubmitTask
from orchestrator.core.events import AgentAttention, AgentUsage, Event, SystemStarted
from orchestrator.core.model import AgentId, TaskId, Usage
from orchestrator.core.spec import Context, TaskSpec
from orchestrator.journal.database import Connect, configured, connect
from orchestrator.journal.group import indexed
from orchestrator.journal.store import Store, open_store
from orchestrator.journal.thread import writer_thread
from orchestrator.secrets.held import HeldValue
from orchestrator.secrets.redactor import Redactor

ROUNDS = 5
AGENTS = 50
WRITERS = (1, 10, 50)
BULK = 1000
SLOW_S = 0.002
HELD = [HeldValue(f"TOKEN_{number}", bytes(range(65 + number, 105 + number))) for number in range(5)]
Row = tuple[Any, ...]
EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
AGENT = "UPDATE agents SET metadata = ?, phase = ?, last_seq = ? WHERE id = ?"
INDEX = "INSERT INTO events_of_task VALUES (?, ?)"


def fact(number: int) -> Event:
    """Return an event that changes no row."""
    return AgentAttention(task_id=TaskId(f"t{number}"), agent_id=AgentId(f"a{number}"), message="x" * 60)


def step(number: int) -> Event:
    """Return the event that a working agent makes most; it changes the agent's row."""
    usage = Usage(input_tokens=number, output_tokens=number, cost_usd=0.01)
    return AgentUsage(task_id=TaskId(f"t{number}"), agent_id=AgentId(f"a{number}"), usage=usage)


class SlowDisk(apsw.VFS):
    """This disk, with syncs that take longer."""

    def __init__(self) -> None:
        super().__init__("slow-disk", "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file on it."""
        return SlowFile("", name, flags)


class SlowFile(apsw.VFSFile):
    """A file on it."""

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Wait for the disk, and then some."""
        super().xSync(flags)
        time.sleep(SLOW_S)


def connect_slow(path: Path) -> apsw.Connection:
    """Open a database on a slow disk."""
    return configured(apsw.Connection(str(path), apsw.SQLITE_OPEN_READWRITE, vfs="slow-disk"), "FULL")


COMMITS = count(1)


def counted(connect: Connect) -> Connect:
    """Return what opens a database whose commits are counted, at no cost to the event loop."""

    def opened(path: Path) -> apsw.Connection:
        connection = connect(path)
        connection.set_commit_hook(lambda: next(COMMITS) < 0)
        return connection

    return opened


@dataclass
class Figure:
    """One way of appending, and what each round gave."""

    name: str
    make: Callable[[int], Event]
    writers: int  # 0 is one caller that hands many over at once
    rates: list[float] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)
    groups: list[float] = field(default_factory=list)
    trio: list[float] = field(default_factory=list)


def all_figures() -> list[Figure]:
    """Return every way of appending, not yet measured."""
    return [
        Figure(f"{kind.__name__}s, {f'{writers} at once' if writers else f'{BULK} a call'}", kind, writers)
        for kind in (fact, step)
        for writers in (*WRITERS, 0)
    ]


async def prepare(store: Store) -> None:
    """Start the agents."""
    await store.record(
        SystemStarted(
            version="0", sandbox="none", max_agents=AGENTS, queue_concurrency=AGENTS, max_queued=AGENTS
        )
    )
    context = Context(repository="https://example.org/r.git", instructions="x" * 500)
    for number in range(AGENTS):
        agent_id = AgentId(f"a{number}")
        await store.submit(SubmitTask(TaskSpec(task_id=f"t{number}", context=context), agent_id, "command"))
        await store.submit(AssignAgent(agent_id))
        await store.submit(StartAgent(agent_id, "none"))


async def append(store: Store, figure: Figure, seconds: float) -> tuple[float, float]:
    """Return events a second and events a commit of children that each wait for their own append."""
    commits, before, start = next(COMMITS), store.state.seq, time.perf_counter()

    async def write(number: int) -> None:
        event = figure.make(number)
        while time.perf_counter() - start < seconds:
            await store.record(event)

    async def write_many() -> None:
        events = [figure.make(number % AGENTS) for number in range(BULK)]
        while time.perf_counter() - start < seconds:
            await store.record(*events)

    async with trio.open_nursery() as writing:
        for number in range(figure.writers):
            writing.start_soon(write, number)
        if not figure.writers:
            writing.start_soon(write_many)
    events = store.state.seq - before
    return events / (time.perf_counter() - start), events / max(1, next(COMMITS) - commits - 1)


class Floor:
    """Ready-made rows into tables of the same shape, in commits of a given size."""

    def __init__(self, journal: Path, path: Path, connect: Connect) -> None:
        with (
            apsw.Connection(str(path)) as copy,
            copy.backup("main", apsw.Connection(str(journal)), "main") as b,
        ):
            b.step(-1)
        copy.close()
        self.connection = connect(path)
        self.metadata = self.connection.execute("SELECT metadata FROM agents LIMIT 1").get
        self.seq = self.connection.execute("SELECT max(seq) FROM events").get

    def rows(self, size: int, make: Callable[[int], Event]) -> tuple[list[Row], list[Row], list[Row]]:
        """Return what a group of so many events writes: events, changes of agents, entries of the index."""
        event, now, seq = make(1), "2026-01-01T00:00:00.000Z", self.seq
        name, data = event.name, event.model_dump_json(exclude={"task_id", "agent_id"}, exclude_none=True)
        span = range(seq + 1, seq + size + 1)
        events: list[Row] = [
            (at, "i" * 36, name, now, f"a{at % AGENTS}", f"t{at % AGENTS}", data, "h" * 64) for at in span
        ]
        ids = range(min(size, AGENTS)) if make is step else ()
        changes: list[Row] = [(self.metadata, "working", seq + size, f"a{number}") for number in ids]
        until, self.seq = indexed(seq + size), seq + size
        index: list[Row] = [(f"t{at % AGENTS}", at) for at in range(indexed(seq) + 1, until + 1)]
        return events, changes, sorted(index)

    def commit(self, rows: tuple[list[Row], list[Row], list[Row]]) -> None:
        """Write a group."""
        self.connection.execute("BEGIN IMMEDIATE")
        for sql, table in zip((EVENT, AGENT, INDEX), rows, strict=True):
            if table:
                self.connection.executemany(sql, table)
        self.connection.execute("COMMIT")

    def rate(self, size: int, seconds: float, make: Callable[[int], Event]) -> float:
        """Return rows of events a second."""
        done, spent = 0, 0.0
        while spent < seconds:
            rows = self.rows(size, make)
            start = time.perf_counter()
            self.commit(rows)
            spent += time.perf_counter() - start
            done += size
        return done / spent

    async def awaited_rate(self, writers: int, seconds: float, make: Callable[[int], Event]) -> float:
        """Return the same where each row has a child that waits for it, and then for its next."""
        waiting, filled = trio.lowlevel.ParkingLot(), trio.lowlevel.ParkingLot()
        done, spent = 0, 0.0

        async def wait() -> None:
            while spent < seconds:
                filled.unpark_all()
                await waiting.park()

        async with trio.open_nursery() as nursery:
            for _ in range(writers):
                nursery.start_soon(wait)
            with writer_thread() as thread:
                while spent < seconds:
                    rows = self.rows(writers, make)
                    start = time.perf_counter()
                    await filled.park()
                    await thread.run(partial(self.commit, rows))
                    waiting.unpark_all()
                    spent += time.perf_counter() - start
                    done += writers
        return done / spent


async def measure(seconds: float, figures: list[Figure], connect: Connect) -> list[float]:
    """Let the journal and the floors take turns; return the rates of one row a commit."""
    singles: list[float] = []
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder:
        home = Path(folder)
        async with (
            open_store(home, home / "orchestrator.db", connect=counted(connect)) as store,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(store.run)
            Redactor(HELD).guard(store)  # as a service has it
            await prepare(store)
            floor = Floor(home / "orchestrator.db", home / "floor.db", connect)
            for _ in range(ROUNDS):
                singles.append(floor.rate(1, seconds, fact))
                for figure in figures:
                    rate, size = await append(store, figure, seconds)
                    figure.rates.append(rate)
                    figure.groups.append(size)
                    figure.floors.append(floor.rate(max(1, round(size)), seconds, figure.make))
                    if figure.writers:
                        waiting = await floor.awaited_rate(figure.writers, seconds, figure.make)
                        figure.trio.append(waiting / figure.floors[-1])
            floor.connection.close()
            nursery.cancel_scope.cancel()
    return singles


def report(disk: str, one_row: float, figures: list[Figure]) -> None:
    """Print one JSON line a figure."""
    floor = {"name": f"{disk}: raw SQLite FULL, one row a commit", "value": round(one_row), "unit": "rows/s"}
    print(json.dumps(floor))
    for figure in figures:
        rate = statistics.median(figure.rates)
        ratios = [one / floor for one, floor in zip(figure.rates, figure.floors, strict=True)]
        line = {
            "name": f"{disk}: journal, {figure.name}",
            "value": round(rate),
            "unit": "events/s",
            "ratio": round(statistics.median(ratios), 2),
            "floor": round(statistics.median(figure.floors)),
            "events_a_commit": round(statistics.median(figure.groups), 1),
            "over_one_row_a_commit": round(rate / one_row, 1),
        }
        if figure.trio:
            line["trio"] = round(statistics.median(figure.trio), 2)
        print(json.dumps(line))


def main() -> None:
    """Measure on both disks."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
    slow = SlowDisk()  # registered for as long as it lives
    for disk, opener in (("this disk", connect), (f"syncs +{SLOW_S * 1000:.0f} ms", connect_slow)):
        figures = all_figures()
        report(disk, statistics.median(trio.run(measure, seconds, figures, opener)), figures)
    del slow


if __name__ == "__main__":
    main()
