"""`make soak`: agents and their supervisor are killed at random moments, again and again; then the checker.

Each *life* of a supervisor is a batch: several clients at once spawn agents and kill each at a random step of
its life, one puts a mixed load on it, until the supervisor itself is SIGKILLed at a random moment. After each
life the checker looks at all that was left. After some lives everything has to come to its end, the checker
looks once more, and the next state directory is a new one: what a check costs grows with the journal.

`KILLS` (10,000 where nothing else is said: of agents, as answered with their proof, and of supervisors),
`SOAK_S` seconds at most, and `SEED` are settings. Prints one JSON line of figures; after a failure, where all
of it is kept.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.load import LoadClient
from tests.kit.checker import check
from tests.kit.evidence import Evidence, Told, gather
from tests.kit.plane import GATED
from tests.kit.remote import count_pushes, make_remote
from tests.kit.service import Service
from tests.kit.until import pause

CANARY = "canary-5d1c7e20-never-on-disk"
#: The longest that a supervisor may live before it is killed.
LONGEST_S = 20.0
#: How many clients kill agents side by side, and how many lives a state directory has.
STRIKERS = 5
LIVES = 8
SETTLE_S = 240.0


@dataclass
class Figures:
    """What was done, and what came of it."""

    supervisors: int = 0
    agents: int = 0
    lives: int = 0
    restarts: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    #: Agents by the phase in which their kill met them.
    met: Counter[str] = field(default_factory=Counter)

    @property
    def kills(self) -> int:
        """Of supervisors, and of agents as far as they were answered with their proof."""
        return self.supervisors + self.agents

    def note(self, evidence: Evidence, told: list[Told]) -> None:
        """Add what one state directory has seen."""
        phases: dict[str, str] = {}
        for recorded in evidence.events:
            event = recorded.event
            self.counts[event.name] += 1
            if event.name == "agent.killed":
                self.met[phases.get(event.agent_id or "", "queued")] += 1
            elif phase := getattr(event, "phase", None) or _PHASES.get(event.name):
                phases[event.agent_id or ""] = str(phase)
        self.counts["events"] += len(evidence.events)
        self.counts["unknown"] += sum(one.outcome == "unknown" for one in told)
        self.counts["pushes"] += sum(map(len, evidence.pushes.values()))


_PHASES = {"task.assigned": "assigned", "agent.running": "working", "task.queued": "queued"}


def soak(root: Path, *, kills: int, seconds: float, seed: int) -> dict[str, object]:
    """Kill agents and supervisors again and again; return figures, or raise what the checker found."""
    figures, chance, began = Figures(), random.Random(seed), time.monotonic()
    number = 0
    root.chmod(0o755)  # agents run as another user

    def goes_on() -> bool:
        return figures.kills < kills and time.monotonic() - began < seconds

    while goes_on():
        number += 1
        place = root / f"plane-{number}"
        place.mkdir()
        _live_and_die(place, figures, chance, goes_on)
        shutil.rmtree(place, ignore_errors=True)
        if seconds > 100:
            took_s = round(time.monotonic() - began)
            print(f"{figures.kills} kills, {figures.lives} lives, {took_s} s", file=sys.stderr, flush=True)  # noqa: T201
    counts = figures.counts
    return {
        "bench": "soak",
        "seed": seed,
        "kills": figures.kills,
        "agent_kills": figures.agents,
        "supervisor_kills": figures.supervisors,
        "lives": figures.lives,
        "seconds": round(time.monotonic() - began, 1),
        "tasks": counts["task.submitted"],
        "events": counts["events"],
        "unknown_answers": counts["unknown"],
        "resumed": counts["agent.resumed"],
        "pushes": counts["pushes"],
        "ends": {name: counts[f"agent.{name}"] for name in ("completed", "failed", "killed")},
        "killed_in": dict(figures.met.most_common()),
        "restart_ms": {
            "median": round(statistics.median(figures.restarts) * 1000),
            "worst": round(max(figures.restarts) * 1000),
        },
    }


def _live_and_die(root: Path, figures: Figures, chance: random.Random, goes_on: Callable[[], bool]) -> None:
    """Give one state directory some lives, and see all of it come to its end."""
    slots = {"MAX_CONCURRENT_AGENTS": "8", "ORCHESTRATOR_QUEUE_CONCURRENCY": "8"}
    service = Service(root, ORCHESTRATOR_API_KEY=CANARY, RESTART_HOLD_SECONDS="0", LOG_LEVEL="info", **slots)
    service.http.headers["Authorization"] = f"Bearer {CANARY}"
    remotes = [make_remote(service.remotes, name, GATED) for name in ("one", "two")]
    for remote in remotes:
        count_pushes(remote)
    clients = [
        LoadClient(service, remotes, random.Random(chance.random()), name=f"{n}-")
        for n in range(STRIKERS + 1)
    ]
    look = {"remotes": remotes, "secrets": [CANARY], "files": [service.log]}

    def told() -> list[Told]:
        return [one for client in clients for one in client.told]

    counted = figures.agents
    with service, ThreadPoolExecutor(len(clients)) as beside:
        for _ in range(LIVES):
            acting = [beside.submit(_act_until_dead, clients[0])]
            acting += [beside.submit(_strike_until_dead, client) for client in clients[1:]]
            pause(chance.random() * LONGEST_S)
            service.kill9()
            figures.supervisors += 1
            for each in acting:
                each.result()
            if chance.random() < 0.2:  # once more, on its way up
                service.launch()
                pause(chance.random() * 0.5)
                service.kill9()
                figures.supervisors += 1
            check(gather(service.home, told=told(), settled=False, **look))
            figures.lives += 1
            figures.agents = counted + sum(one.kind == "kill" and one.outcome == "ok" for one in told())
            figures.restarts.append(service.start())
            if not goes_on():
                break
        # Side by side: what one has left running takes the place of what another waits for.
        for each in [beside.submit(client.settle, SETTLE_S) for client in clients]:
            each.result()
        assert service.stop() == 0
        evidence = gather(service.home, told=told(), at_rest=True, **look)
        check(evidence)
        figures.note(evidence, told())
        service.start()  # for `with`, which stops it


def _act_until_dead(client: LoadClient) -> None:
    """Make requests until one is cut off, or as many as a supervisor's short life has room for."""
    for _ in range(8):
        client.act()
        if client.told[-1].outcome == "unknown":
            break


def _strike_until_dead(client: LoadClient) -> None:
    """Kill agents until a request is cut off."""
    while client.strike():
        pass


def main() -> None:
    """See the module."""
    root = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))
    seed = int(os.environ.get("SEED", str(random.randrange(10**6))))
    try:
        figures = soak(
            root,
            kills=int(os.environ.get("KILLS", "10000")),
            seconds=float(os.environ.get("SOAK_S", "86400")),
            seed=seed,
        )
    except BaseException:
        print(f"SEED={seed}: what it left is kept in {root}", file=sys.stderr)  # noqa: T201 - for people
        raise
    print(json.dumps(figures))  # noqa: T201 - the figure
    shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
