"""`make soak`: a mixed load over HTTP while the supervisor is SIGKILLed at random moments; then the checker.

`KILLS` (10,000 where nothing else is said), `SOAK_S` seconds at most, and `SEED` are settings. Every tenth
time, and at the end, the checker looks at all that was left. Prints one JSON line of figures; after a
failure, where all of it is kept.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.load import LoadClient
from tests.kit.checker import check
from tests.kit.evidence import gather
from tests.kit.plane import GATED
from tests.kit.remote import count_pushes, make_remote
from tests.kit.service import Service
from tests.kit.until import pause

CANARY = "canary-5d1c7e20-never-on-disk"
#: The longest that a supervisor may live before it is killed.
LONGEST_S = 1.5
CHECK_EVERY = 10
SETTLE_S = 180.0


def soak(root: Path, *, kills: int, seconds: float, seed: int) -> dict[str, object]:
    """Kill a supervisor again and again; return figures, or raise what the checker found."""
    service = Service(root, ORCHESTRATOR_API_KEY=CANARY, MAX_CONCURRENT_AGENTS="6", RESTART_HOLD_SECONDS="0")
    service.http.headers["Authorization"] = f"Bearer {CANARY}"
    remotes = [make_remote(service.remotes, name, GATED) for name in ("one", "two")]
    for remote in remotes:
        count_pushes(remote)
    client = LoadClient(service, remotes, random.Random(seed))
    began, restarts, done = time.monotonic(), list[float](), 0
    look = {"remotes": remotes, "secrets": [CANARY], "files": [service.log]}
    with service, ThreadPoolExecutor(1) as beside:
        while done < kills and time.monotonic() - began < seconds:
            acting = beside.submit(_act_until_dead, client)
            pause(client.chance.random() * LONGEST_S)
            service.kill9()
            acting.result()
            if client.chance.random() < 0.2:  # once more, on its way up
                service.launch()
                pause(client.chance.random() * 0.5)
                service.kill9()
                done += 1
            done += 1
            if done % CHECK_EVERY == 0:
                check(gather(service.home, told=client.told, settled=False, **look))
            restarts.append(service.start())
        client.settle(SETTLE_S)
        assert service.stop() == 0
        evidence = gather(service.home, told=client.told, at_rest=True, **look)
        check(evidence)
        service.start()  # for `with`, which stops it
    names = Counter(recorded.event.name for recorded in evidence.events)
    return {
        "bench": "soak",
        "seed": seed,
        "kills": done,
        "seconds": round(time.monotonic() - began, 1),
        "tasks": names["task.submitted"],
        "events": len(evidence.events),
        "unknown_answers": sum(told.outcome == "unknown" for told in client.told),
        "resumed": names["agent.resumed"],
        "pushes": sum(map(len, evidence.pushes.values())),
        "ends": {name: names[f"agent.{name}"] for name in ("completed", "failed", "killed")},
        "restart_ms": {
            "median": round(statistics.median(restarts) * 1000),
            "worst": round(max(restarts) * 1000),
        },
    }


def _act_until_dead(client: LoadClient) -> None:
    """Make requests until one is cut off, or as many as a supervisor's short life has room for."""
    for _ in range(4):
        client.act()
        if client.told[-1].outcome == "unknown":
            break


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
