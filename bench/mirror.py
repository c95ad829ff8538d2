"""Commits a second with a mirror in Valkey beside commits without one, in turns, median of the ratios.

Ten clients each bring agents to work and end them, as fast as the journal commits. Three states of Valkey: it
is well (and nobody, or somebody, listens to the events), it is stopped (SIGSTOP), nobody listens on its port.
`ratio` is the rate with the mirror over that of the runs right before and after it without one.

Both together are bound by the disk, or, in memory (`/dev/shm` as the third argument), by the processor, which
is the worst case: `cpu` is the processor time of an event with a mirror, over that without one.

Run as `python bench/mirror.py [seconds a run] [rounds] [directory]`.
"""

from __future__ import annotations

import json
import logging
import signal
import statistics
import sys
import tempfile
import time
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orchestrator.core.commands import AssignAgent, KillAgent, StartAgent, SubmitTask
from orchestrator.core.events import AgentCleanup, AgentUsage, SystemStarted
from orchestrator.core.model import AgentId, Reason, TaskId, Usage
from orchestrator.core.spec import Context, TaskSpec
from orchestrator.journal.store import Store, open_store, utc_now
from orchestrator.mirror.address import Address
from orchestrator.mirror.valkey import ValkeyMirror
from tests.kit.until import seen
from tests.kit.valkey import Listener, Valkey, running_valkey

CLIENTS = 10
USAGES = 10
NUMBERS = count(1)


async def live_once(store: Store) -> None:
    """Bring one agent through its life: sixteen events and more."""
    number = next(NUMBERS)
    task_id, agent_id = TaskId(f"t{number}"), AgentId(f"a{number}")
    context = Context(repository="https://example.org/r.git", instructions="x" * 500)
    await store.submit(SubmitTask(TaskSpec(task_id=task_id, context=context), agent_id, "command"))
    await store.submit(AssignAgent(agent_id))
    await store.submit(StartAgent(agent_id, "none"))
    for step in range(USAGES):
        await store.record(AgentUsage(task_id=task_id, agent_id=agent_id, usage=Usage(input_tokens=step)))
    await store.submit(KillAgent(agent_id, Reason.OPERATOR))
    await store.record(AgentCleanup(task_id=task_id, agent_id=agent_id))


async def rate(store: Store, mirror: ValkeyMirror | None, seconds: float) -> tuple[float, float]:
    """Return the events a second that the clients get committed, and the processor time of each."""
    async with trio.open_nursery() as nursery:
        if mirror is not None:
            nursery.start_soon(mirror.run)
            with suppress(AssertionError):  # nor will it be, where Valkey is away
                await seen(lambda: mirror.condition == "ok", "the mirror is whole", 0.5)
        before, start, cpu = store.state.seq, time.perf_counter(), time.process_time()

        async def work() -> None:
            while time.perf_counter() - start < seconds:
                await live_once(store)

        async with trio.open_nursery() as clients:
            for _ in range(CLIENTS):
                clients.start_soon(work)
        events = store.state.seq - before
        found = events / (time.perf_counter() - start), (time.process_time() - cpu) / events
        nursery.cancel_scope.cancel()
    return found


async def compare(name: str, store: Store, address: Address, seconds: float, rounds: int) -> None:
    """Print the ratio of this state of Valkey."""
    ratios, costs = list[float](), list[float]()
    before = await rate(store, None, seconds)
    for _ in range(rounds):
        found = await rate(store, ValkeyMirror(store, address, utc_now), seconds)
        after = await rate(store, None, seconds)
        ratios.append(2 * found[0] / (before[0] + after[0]))
        costs.append(2 * found[1] / (before[1] + after[1]))
        before = after
    quarters = [round(quarter, 3) for quarter in statistics.quantiles(ratios, n=4)]
    figure = {
        "bench": f"mirror, {name}",
        "events_per_s": round(before[0]),
        "ratio": round(statistics.median(ratios), 3),
        "quarters": [quarters[0], quarters[-1]],
        "cpu": round(statistics.median(costs), 3),
    }
    print(json.dumps(figure), flush=True)


async def measure(valkey: Valkey, home: Path, seconds: float, rounds: int) -> None:
    """Print all figures."""
    async with open_store(home, home / "orchestrator.db") as store, trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.record(
            SystemStarted(
                version="0", sandbox="none", max_agents=50, queue_concurrency=50, max_queued=100_000
            )
        )
        await compare("well, nobody listens", store, valkey.address, seconds, rounds)
        with closing(Listener(valkey)):
            await compare("well, somebody listens", store, valkey.address, seconds, rounds)
        valkey.signal(signal.SIGSTOP)
        await compare("stopped", store, valkey.address, seconds, rounds)
        valkey.kill()
        await compare("absent", store, valkey.address, seconds, rounds)
        nursery.cancel_scope.cancel()


def main() -> None:
    """See the module."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.5
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    place = Path(sys.argv[3]) if len(sys.argv) > 3 else Path.home()
    logging.disable()
    with tempfile.TemporaryDirectory(dir=place) as home, running_valkey(Path(home)) as valkey:
        trio.run(measure, valkey, Path(home), seconds, rounds)


if __name__ == "__main__":
    main()
