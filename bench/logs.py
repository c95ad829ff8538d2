"""A hundred agents that write: lines a second from their pipes into the log, and what the event loop feels.

Each of AGENTS programs prints LINES lines of 101 bytes into a pipe of its own. They go the way of an agent's
output: cut into lines, into the log's database, and on to a reader who follows one of the logs. Beside it, in
turns, the *floor*: the same pipes, split at line ends, into a table of the same shape by one statement for
5,000 lines, with no account, ceiling, mark or reader. `lag` is how late the loop wakes whoever waits for a
millisecond. Prints one JSON line a figure, the median of BENCH_ROUNDS.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import apsw
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orchestrator.agents.lines import TurnLog
from orchestrator.journal.encoding import dump
from orchestrator.journal.store import Store, open_store

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
AGENTS, LINES = 100, 2000
PROGRAM = ["sh", "-c", f"read _; yes {'x' * 100} | head -n {LINES}"]
PIECE = 64 * 1024
TICK_S = 0.001
BATCH = 5000
INSERT = (
    "INSERT INTO agent_logs (id, agent_id, timestamp, stream, content)"
    " SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM jsonb_each(?)"
)
Program = subprocess.Popen[bytes]
Take = Callable[[int, bytes], Awaitable[None]]


@contextmanager
def ready_programs() -> Iterator[list[Program]]:
    """Start the programs, each of which waits for a line before it writes."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ExitStack() as owned:
        yield [owned.enter_context(subprocess.Popen(PROGRAM, **pipes)) for _ in range(AGENTS)]


async def pump(number: int, program: Program, take: Take) -> None:
    """Hand on what one program writes."""
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(b"\n")
    program.stdin.flush()
    async with trio.lowlevel.FdStream(os.dup(program.stdout.fileno())) as pipe:
        while chunk := await pipe.receive_some(PIECE):
            await take(number, bytes(chunk))


async def pump_all(programs: list[Program], take: Take) -> None:
    """Let every program write all of its lines."""
    async with trio.open_nursery() as pumping:
        for number, program in enumerate(programs):
            pumping.start_soon(pump, number, program, take)


@asynccontextmanager
async def lags_of_the_loop() -> AsyncIterator[list[float]]:
    """Note, while inside, by how many milliseconds the loop is late."""
    lags: list[float] = []

    async def tick() -> None:
        while True:
            due = trio.current_time() + TICK_S
            with trio.move_on_at(due):
                await trio.sleep_forever()
            lags.append((trio.current_time() - due) * 1000)

    async with trio.open_nursery() as ticking:
        ticking.start_soon(tick)
        yield lags
        ticking.cancel_scope.cancel()


async def ours(programs: list[Program], store: Store, turn: int) -> float:
    """Return lines a second by the log book, until the last can be read."""
    names = [f"agent-{turn}-{number}" for number in range(AGENTS)]
    logs = [make_log(store, name) for name in names]
    followed = 0

    async def take(number: int, chunk: bytes) -> None:
        await logs[number].add("stdout", chunk)

    async def follow() -> None:
        nonlocal followed
        cursor = 0
        while followed < LINES:
            await store.logs.wait_for_more(names[0], cursor)
            lines = await store.logs.read(names[0], after=cursor)
            followed, cursor = followed + len(lines), lines[-1].id

    began = time.perf_counter()
    async with trio.open_nursery() as following:
        following.start_soon(follow)
        await pump_all(programs, take)
        await store.logs.wait_written()
    return AGENTS * LINES / (time.perf_counter() - began)


def make_log(store: Store, name: str) -> TurnLog:
    """Return what cuts one agent's output into its log."""

    async def write(stream: str, line: str) -> None:
        await store.logs.write(name, stream, line)

    return TurnLog(write)


async def floor(programs: list[Program], connection: apsw.Connection) -> float:
    """Return lines a second by hand."""
    rows: list[list[object]] = []
    pending = [b""] * AGENTS
    count, writing = 0, trio.Lock()

    async def flush() -> None:
        async with writing:
            batch, rows[:] = rows[:], []
            text = dump(batch)
            await trio.to_thread.run_sync(connection.execute, INSERT, (text,))

    async def take(number: int, chunk: bytes) -> None:
        nonlocal count
        *lines, pending[number] = (pending[number] + chunk).split(b"\n")
        for line in lines:
            count += 1
            rows.append([None, f"a{number}", "2026-01-01T00:00:00.000Z", "stdout", line.decode()])
        if len(rows) >= BATCH:
            await flush()

    began = time.perf_counter()
    await pump_all(programs, take)
    await flush()
    assert count == AGENTS * LINES
    return count / (time.perf_counter() - began)


async def measure(home: Path) -> None:
    """Let both take turns, and print the figures."""
    figures: dict[str, list[float]] = {"ours": [], "floor": [], "p50": [], "p99": []}
    async with open_store(home, home / "orchestrator.db") as store, trio.open_nursery() as nursery:
        await nursery.start(store.run)
        by_hand = apsw.Connection(str(home / "floor.db"))
        by_hand.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
        by_hand.execute(
            "CREATE TABLE agent_logs (id INTEGER PRIMARY KEY, agent_id, timestamp, stream, content);"
            "CREATE INDEX by_agent ON agent_logs (agent_id, id)"
        )
        for turn in range(ROUNDS):
            with ready_programs() as programs:
                async with lags_of_the_loop() as lags:
                    figures["ours"].append(await ours(programs, store, turn))
            figures["p50"].append(statistics.median(lags))
            figures["p99"].append(sorted(lags)[int(len(lags) * 0.99)])
            with ready_programs() as programs:
                figures["floor"].append(await floor(programs, by_hand))
        by_hand.close()
        nursery.cancel_scope.cancel()
    middle = {name: statistics.median(values) for name, values in figures.items()}
    ratios = [one / other for one, other in zip(figures["ours"], figures["floor"], strict=True)]
    shown = {
        "name": f"logs of {AGENTS} agents",
        "value": round(middle["ours"]),
        "unit": "lines/s",
        "ratio": round(statistics.median(ratios), 2),
        "floor": round(middle["floor"]),
    }
    print(json.dumps(shown))
    lag = {"name": "lag of the event loop meanwhile, p99", "value": round(middle["p99"], 2), "unit": "ms"}
    print(json.dumps(lag | {"p50": round(middle["p50"], 2)}))


def main() -> None:
    """Measure in a directory of our own."""
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as name:
        trio.run(measure, Path(name).resolve())


if __name__ == "__main__":
    main()
