"""A journal in memory for one agent: what was recorded, and the state that follows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime

from orchestrator.agents.meter import AgentMeter
from orchestrator.agents.provider import Provider
from orchestrator.agents.purse import Purse
from orchestrator.core import events as e
from orchestrator.core.commands import AssignAgent, StartAgent, SubmitTask
from orchestrator.core.decide import decide
from orchestrator.core.machine import evolve
from orchestrator.core.model import AgentId, Control, State
from orchestrator.core.spec import TaskSpec


class Awake:
    """An agent that is never frozen; its time goes on. See `agents.meter.Stillness`."""

    frozen = False

    async def wait_thawed(self) -> None:
        """Go on."""

    def stand_still(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()


class Books:
    """The events of one agent, which is at work, and what they come to."""

    def __init__(self) -> None:
        self.events: list[e.Event] = []
        self.state = State(control=Control(max_agents=100, queue_concurrency=100))

    def begin(self, spec: TaskSpec, agent_id: str) -> None:
        """Bring an agent to where its program runs; once."""
        if AgentId(agent_id) in self.state.agents:
            return
        submit = SubmitTask(spec, AgentId(agent_id), spec.options.runtime or "command")
        for command in (submit, AssignAgent(AgentId(agent_id)), StartAgent(AgentId(agent_id), "none")):
            for event in decide(self.state, command, datetime.now(UTC)):
                self._fold(event)

    async def record(self, *events: e.Event) -> None:
        """Take in events of the agent."""
        for event in events:
            self._fold(event)
        self.events += events

    def _fold(self, event: e.Event) -> None:
        recorded = e.Recorded(self.state.seq + 1, "id", datetime.now(UTC), event, "")
        self.state = evolve(self.state, recorded)

    def meter(
        self, spec: TaskSpec, agent_id: str, *, provider: Provider | None = None, purse: Purse | None = None
    ) -> AgentMeter:
        """Return the meter of the agent, which is begun."""
        self.begin(spec, agent_id)
        return AgentMeter(
            {"task_id": spec.task_id, "agent_id": agent_id},
            self.record,
            state=lambda: self.state,
            own=spec.options.budget,
            provider=provider or Provider(),
            purse=purse or Purse(),
            stillness=Awake(),
        )
