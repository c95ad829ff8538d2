"""A storm at the provider: twenty agents against an API that answers 429, 529, resets and cuts.

Beside it, in turns, the same agents without a line: each asks when it likes, and waits for itself as long as
it is told, as SDKs do. Prints one JSON line a figure: the time until all have finished, requests, refusals,
the most in flight beside the ceiling, how arrivals lie apart, and the herd index: the most arrivals within
50 ms, beside what the ceiling allows at once.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orchestrator.agents.base import Answer, Request
from orchestrator.agents.meter import AgentMeter
from orchestrator.agents.prices import read_prices
from orchestrator.agents.provider import Provider
from orchestrator.agents.purse import Purse
from orchestrator.core.admission import Ceilings
from orchestrator.core.spec import Budget
from orchestrator.core.trouble import ProviderFailure
from tests.journal.rig import running_store, work
from tests.kit.asking import MAX_TOKENS, MODEL, ask_api
from tests.kit.books import Awake
from tests.kit.messages_api import ScriptedApi, script, scripted_api

AGENTS = int(os.environ.get("BENCH_AGENTS", "20"))
TURNS = int(os.environ.get("BENCH_TURNS", "5"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "2"))
CEILING = 5
ANSWER_S = 0.1
HERD_S = 0.05
FAULTS = [
    {"p": 0.1, "status": 429, "retry_after": 1},
    {"p": 0.1, "status": 529},
    {"p": 0.05, "kind": "reset"},
    {"p": 0.05, "kind": "cut"},
]

Ask = Callable[[Callable[[], Awaitable[Answer]]], Awaitable[Answer]]


async def converse(client: httpx2.AsyncClient, name: str, ask: Ask) -> None:
    """Take an agent's turns."""
    steps = [{"say": "on", "wait_s": ANSWER_S}] * TURNS
    said: list[dict[str, Any]] = [{"role": "user", "content": script(*steps, agent=name)}]
    for _ in range(TURNS):
        answer = await ask(partial(ask_api, client, said))
        said += [json.loads(answer.content or "[]")[-1], {"role": "user", "content": "go on"}]


async def alone(request: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask as an SDK does: again and again, after as long as one is told or twice as long as before."""
    wait_s = 0.5
    while True:
        try:
            return await request()
        except ProviderFailure as failure:
            with trio.move_on_after(failure.wait_s or wait_s):
                await trio.sleep_forever()
            wait_s = min(wait_s * 2, 8.0)


async def run(api: ScriptedApi, *, in_line: bool) -> float:
    """Let all agents take their turns; return the seconds that it took."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    provider, purse = Provider(Ceilings(CEILING)), Purse(read_prices())
    with tempfile.TemporaryDirectory(prefix="bench-provider-") as home:
        async with (
            running_store(Path(home), max_agents=AGENTS) as store,
            httpx2.AsyncClient(base_url=api.url, timeout=30, limits=limits) as client,
        ):

            def metered(ids: dict[str, Any]) -> Ask:
                meter = AgentMeter(
                    ids, store.record, state=lambda: store.state, own=Budget(), provider=provider,
                    purse=purse, stillness=Awake(),
                )  # fmt: skip
                return lambda request: meter.ask(Request(MODEL, 100, MAX_TOKENS), request, prompt=1)

            names = [f"a{number}" for number in range(AGENTS)]
            asks = [metered(await work(store, f"t-{name}", name)) if in_line else alone for name in names]
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for name, ask in zip(names, asks, strict=True):
                    nursery.start_soon(converse, client, name, ask)
            return trio.current_time() - began


def figures(api: ScriptedApi, seconds: float) -> dict[str, float]:
    """Return what the API saw."""
    requests, arrivals = api.messages(), sorted(api.arrivals())
    gaps_ms = sorted(1000 * (after - before) for before, after in itertools.pairwise(arrivals))
    herd = max(sum(at <= other < at + HERD_S for other in arrivals) for at in arrivals)
    return {
        "seconds": round(seconds, 1),
        "requests": len(requests),
        "refused": sum(request.status != 200 or request.how != "served" for request in requests),
        "most_at_once": api.most_at_once(),
        "gap_p10_ms": round(gaps_ms[len(gaps_ms) // 10], 1),
        "gap_p50_ms": round(statistics.median(gaps_ms), 1),
        "gap_p90_ms": round(gaps_ms[len(gaps_ms) * 9 // 10], 1),
        "herd_index": round(herd / CEILING, 2),
    }


def main() -> None:
    """Run both in turns and print the medians."""
    seen: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for number in range(ROUNDS):
        for in_line, found in seen.items():
            storm = {"seed": number, "most_in_a_row": 3, "faults": FAULTS}
            with scripted_api(storm=storm, ceiling=CEILING) as api:
                seconds = trio.run(lambda api=api, in_line=in_line: run(api, in_line=in_line))
                found.append(figures(api, seconds))
    for name in seen[True][0]:
        ours, theirs = (statistics.median(one[name] for one in seen[in_line]) for in_line in (True, False))
        figure = {
            "bench": "provider",
            "figure": f"{AGENTS} agents of {TURNS} turns in a storm, ceiling {CEILING}: {name}",
            "line": ours,
            "each_for_itself": theirs,
            "rounds": ROUNDS,
        }
        print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
