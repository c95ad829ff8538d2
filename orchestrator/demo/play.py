"""What happens in the demo: three tasks are handed over, told of as they go on, and one agent is killed.

The invariant: what is told comes from the supervisor's own stream and answers, or from /proc; `check` then
compares it with what the demo promises. Called by `orchestrator.demo.command`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from orchestrator.cli.failure import Failed
from orchestrator.cli.output import Output
from orchestrator.cli.timeline import Line, describe, duration, plural
from orchestrator.client import Client, open_client
from orchestrator.demo import traces
from orchestrator.demo.project import ADA, BEN, CAST, CYD, LOOSE, Role
from orchestrator.demo.stage import Stage

#: Events that say nothing to somebody who watches: another line says the same.
SILENT = frozenset({"agent.usage"})
SILENT_PHASES = frozenset({"committing", "cleaning", "queued"})
ENDS = frozenset({"agent.completed", "agent.failed", "agent.killed"})

Event = dict[str, Any]


@dataclass(slots=True)
class Seen:
    """What one agent was seen to do."""

    role: Role
    agent_id: str
    mark: str
    events: list[Event] = field(default_factory=list)
    end: Event | None = None
    clean: bool = False

    def count(self, kind: str) -> int:
        """Return how many events of a type there were."""
        return sum(event["type"] == kind for event in self.events)


@dataclass(slots=True)
class Play:
    """One run of the demo."""

    stage: Stage
    output: Output
    cast: dict[str, Seen] = field(default_factory=dict)
    proof: dict[str, Any] = field(default_factory=dict)
    #: Processes of the runaway that /proc showed after the kill's answer.
    after: int = 0
    began: datetime | None = None

    async def run(self) -> None:
        """Hand the tasks over, tell what happens, kill the runaway, and return when all three are gone."""
        async with open_client(self.stage.url, token=self.stage.token) as client:
            repository = f"file://{self.stage.remote}"
            for role in CAST:
                mark = f"{self.stage.mark}-{role.name}"
                answer = await client.spawn(role.request(repository, mark))
                self.cast[answer["agentId"]] = Seen(role, answer["agentId"], mark)
            async for event in client.events(after=0):
                await self._take(client, event)
                if all(seen.end and seen.clean for seen in self.cast.values()):
                    return
        raise Failed("the stream of events ended before the agents did", code="demo_failed")

    async def _take(self, client: Client, event: Event) -> None:
        """Take one event in: tell it, and act on it where the play says so."""
        seen = self.cast.get(str(event.get("agentId")))
        if seen is None:
            return
        seen.events.append(event)
        self._tell(seen.role, event)
        if event["type"] in ENDS:
            seen.end = event
        elif event["type"] == "agent.cleanup":
            seen.clean = True
        elif seen.role is CYD and event["type"] == "agent.running":
            await self._kill(client, seen)

    async def _kill(self, client: Client, seen: Seen) -> None:
        """Kill the runaway once all its processes are loose."""
        async for entry in client.logs(seen.agent_id, follow=True):
            if LOOSE in str(entry.get("content")):
                break
        before = traces.count_marked(seen.mark)
        self.proof = await client.kill(seen.agent_id)
        self.after = traces.count_marked(seen.mark)
        killed, elapsed = plural(self.proof["killedProcesses"], "process"), duration(self.proof["elapsedMs"])
        about = f"the answer: {killed} killed, {self.proof['remaining']} remaining, {elapsed}"
        self._print("", CYD, Line("kill", f"{about}; in /proc {before} before, {self.after} after", "bold"))

    def _tell(self, role: Role, event: Event) -> None:
        moment = datetime.fromisoformat(event["time"])
        self.began = self.began or moment
        if event["type"].startswith("task.") or event["type"] in SILENT or _phase(event) in SILENT_PHASES:
            return
        line = describe(event)
        if event["type"] == "gate.rejected":
            self._print(self._clock(moment), role, line)
            for said in _complaints(event):
                self._print("", role, Line("", f"  {said}", "yellow"))
            return
        self._print(self._clock(moment), role, line)

    def _clock(self, moment: datetime) -> str:
        return f"{(moment - (self.began or moment)).total_seconds():.2f} s"

    def _print(self, clock: str, role: Role, line: Line) -> None:
        if not self.output.as_json:
            about_tone = "" if line.tone in {"green", "bold"} else line.tone
            self.output.line(
                (f"{clock:>9}  ", "dim"),
                (f"{role.name}  ", role.colour),
                (f"{line.what:<19} ", line.tone),
                (line.about, about_tone),
            )

    def check(self) -> list[str]:
        """Return what did not go as the demo promises."""
        by_role = {seen.role.name: seen for seen in self.cast.values()}
        ada, ben, cyd = by_role[ADA.name], by_role[BEN.name], by_role[CYD.name]
        told: list[tuple[bool, str]] = [
            (_ended(ada, "agent.completed", "done"), "ada did not land her work"),
            (ada.count("gate.rejected") == 0, "ada was rejected"),
            (ben.count("gate.rejected") == 1, "ben was not rejected exactly once"),
            (ben.count("agent.turn") == 2, "ben did not take exactly two turns"),
            (_ended(ben, "agent.completed", "done"), "ben did not land his work"),
            (_ended(cyd, "agent.killed", "operator"), "cyd was not killed"),
            (self.proof.get("remaining") == 0, "the kill did not prove that nothing remains"),
            (self.proof.get("killedProcesses", 0) >= 7, "the kill found fewer processes than cyd had"),
            (self.after == 0, f"{self.after} of cyd's processes were alive after the kill's answer"),
        ]
        return [trouble for holds, trouble in told if not holds]


def _phase(event: Event) -> str:
    return str(event["data"].get("phase", "")) if event["type"] == "agent.phase" else ""


def _ended(seen: Seen, kind: str, reason: str) -> bool:
    return seen.end is not None and seen.end["type"] == kind and seen.end["data"].get("reason") == reason


def _complaints(event: Event) -> list[str]:
    tail = str(event["data"]["verdict"].get("outputTail", ""))
    return [line for line in tail.splitlines() if line.startswith("not ok")][:4]
