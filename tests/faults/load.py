"""A client that remembers what it was told, and the mixed load that it puts on a supervisor.

Every request ends as answered well, refused, or unknown (the connection broke): see `tests.kit.evidence`.
Whoever does not know asks again under the same Idempotency-Key, as a good client does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.kit.evidence import Outcome, Told
from tests.kit.plane import SECOND_THOUGHTS
from tests.kit.service import ENDED, Service
from tests.kit.until import pause, until

#: What agents do, and whether a gate judges them.
SCRIPTS = {
    "lands": ("echo $ORCHESTRATOR_TASK_ID > new.txt", False),
    "second": (SECOND_THOUGHTS, True),
    "fails": ('[ "$ORCHESTRATOR_ATTEMPT" = 2 ] && echo 3 > value && exit; echo x > y; exit 3', False),
    "nothing": ("true", False),
    "sleeps": ("echo half > half; setsid sleep 1000 & sleep 1000", False),
    "hides": (
        "(setsid sh -c 'trap \"\" TERM; sleep 1000' >/dev/null 2>&1 &); echo 5 > value; sleep 0.1",
        False,
    ),
    "idles": ("exec sleep 1000", False),
}
#: What would never end by itself.
ENDLESS = ("sleeps", "idles")
#: The longest that an agent is left alone before it is killed: as long as one takes to land on a busy host.
LEFT_ALONE_S = 1.5


@dataclass
class LoadClient:
    """Spawns and kills at random, and keeps the record."""

    service: Service
    remotes: list[Path]
    chance: random.Random
    told: list[Told] = field(default_factory=list)
    tasks: dict[str, str] = field(default_factory=dict)  # to the agent, where it is known
    #: Before the names of its tasks, where there are several clients.
    name: str = ""
    _unsure: list[tuple[str, dict[str, object], str]] = field(default_factory=list)

    def act(self) -> None:
        """Make one request: mostly a spawn, else a kill, or one that was cut off once more."""
        if self._unsure and self.chance.random() < 0.5:
            self._spawn(*self._unsure.pop(0))
        elif self.tasks and self.chance.random() < 0.3:
            self.kill(self.chance.choice(list(self.tasks.values())[-8:]))
        else:
            self.spawn(self.chance.choice(list(SCRIPTS)))

    def spawn(self, kind: str) -> None:
        """Hand a task over under a fresh key."""
        script, gated = SCRIPTS[kind]
        task = f"{kind}-{self.name}{len(self.tasks) + len(self._unsure)}-{self.chance.randrange(10**6)}"
        over: dict[str, object] = {"gateProfile": "minimal", "gates": None} if gated else {}
        options = {"maxRetries": 1}
        body = self.service.request_body(
            self.chance.choice(self.remotes), script, task, options=options, **over
        )
        self._spawn(task, body, f"key-{task}")

    def _spawn(self, task: str, body: dict[str, object], key: str) -> None:
        outcome, answer = self._call("/agents/spawn", body, key)
        self.told.append(Told("spawn", task, outcome, answer, key))
        if outcome == "ok":
            self.tasks[task] = answer["agentId"]
        elif outcome == "unknown":
            self._unsure.append((task, body, key))

    def strike(self) -> bool:
        """Spawn an agent, kill it at a random step of its life, and return whether the supervisor lives."""
        self.spawn(self.chance.choice([*SCRIPTS, *["idles"] * 6]))
        if self.told[-1].outcome != "ok":
            return self.told[-1].outcome == "refused"
        pause(LEFT_ALONE_S * self.chance.random() ** 2)
        self.kill(self.told[-1].answer["agentId"])
        return self.told[-1].outcome != "unknown"

    def kill(self, agent: str) -> None:
        """Kill an agent, which may have ended already."""
        outcome, answer = self._call(f"/agents/{agent}/kill", None, "")
        self.told.append(Told("kill", agent, outcome, answer))

    def _call(self, path: str, body: object, key: str) -> tuple[Outcome, dict[str, object]]:
        headers = {"Idempotency-Key": key} if key else {}
        try:
            status, answer = self.service.call("POST", path, body, headers=headers)
        except httpx2.TransportError:
            return "unknown", {}
        if status < 300:
            return "ok", answer
        return ("unknown", {}) if status >= 500 else ("refused", answer)

    def settle(self, within_s: float) -> None:
        """Learn what became of every request, kill what would never end, and wait until all is over."""
        for _ in range(5):
            waiting, self._unsure = self._unsure, []
            for task, body, key in waiting:
                self._spawn(task, body, key)
        for task, agent in self.tasks.items():
            if task.startswith(ENDLESS):
                self.kill(agent)
        waiting = list(self.tasks)

        def over() -> bool:
            while waiting:
                state = self.service.call("GET", f"/tasks/{waiting[-1]}")[1]
                if state["status"] not in {"completed", "failed", "cancelled"}:
                    if waiting[-1].startswith(ENDLESS):  # its first attempt was cut; the kill met the second
                        self.kill(state["attempts"][-1]["agentId"])
                    return False
                waiting.pop()
            agents = self.service.call("GET", "/agents?limit=1000")[1]["agents"]
            return all(agent["status"] in ENDED for agent in agents)

        until(over, "every task has ended", within_s)
        until(lambda: not self.service.agent_directories(), "all is cleaned up after", within_s)
