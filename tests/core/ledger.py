"""A journal without a disk: decides, folds and prunes as the store does, and remembers every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.decide import decide
from orchestrator.core.machine import evolve, prune
from orchestrator.core.model import Agent, AgentId, PushIntent, Reason, State, Task, TaskId, Verdict
from orchestrator.core.policy import worst_active, worst_of
from orchestrator.core.spec import TaskSpec

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

VERDICT = Verdict(gate="tests", approved=True, message="3 tests passed", commit="c0ffee", command=("make",))
PUSH = PushIntent(remote="file:///srv/r.git", ref="refs/heads/agent/t", old="", new="c0ffee")


def task_spec(task_id: str = "t", *, priority: int = 5, **options: object) -> TaskSpec:
    """Return a small task."""
    return TaskSpec.model_validate(
        {
            "taskId": task_id,
            "priority": priority,
            "context": {"repository": "file:///srv/r.git"},
            "options": options,
        }
    )


@dataclass
class Ledger:
    """The state after every event so far, and where each commit ended."""

    state: State = field(default_factory=State)
    now: datetime = NOON
    entries: list[e.Recorded] = field(default_factory=list)
    #: The state after each commit: what a crash can leave.
    commits: list[State] = field(default_factory=lambda: [State()])
    #: Attempts of tasks that have left the state: what the tables know.
    attempts: dict[str, int] = field(default_factory=dict)

    def submit(self, command: c.Command) -> list[e.Event]:
        """Decide and fold a command."""
        events = decide(self.state, command, self.now)
        self.record(*events)
        return events

    def record(self, *events: e.Event) -> None:
        """Fold events as one commit, or none of them."""
        state, entries = self.state, []
        for event in events:
            seq = state.seq + 1
            entries.append(e.Recorded(seq, f"id-{seq}", self.now, event, ""))
            state = prune(evolve(state, entries[-1]), event)
        self.state = state
        self.entries += entries
        self.commits.append(state)
        for event in events:
            if isinstance(event, e.AgentSpawning):
                self.attempts[event.task_id] = event.attempt

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    def open(self, *, agents: int = 2, at_once: int = 2, queued: int = 100) -> Ledger:
        """Start with these ceilings."""
        started = e.SystemStarted(
            version="0", sandbox="bubblewrap", max_agents=agents, queue_concurrency=at_once, max_queued=queued
        )
        self.record(started)
        return self

    def add(
        self, task_id: str = "t", agent_id: str = "a", *, priority: int = 5, **options: object
    ) -> AgentId:
        """Submit a task."""
        spec = task_spec(task_id, priority=priority, **options)
        earlier = self.attempts.get(task_id, 0)
        self.submit(c.SubmitTask(spec, AgentId(agent_id), "command", earlier))
        return AgentId(agent_id)

    def assign(self, task_id: str = "t", agent_id: str = "a", **options: object) -> AgentId:
        """Submit a task and give its agent a slot."""
        agent = self.add(task_id, agent_id, **options)
        self.submit(c.AssignAgent(agent))
        return agent

    def start(self, task_id: str = "t", agent_id: str = "a", **options: object) -> AgentId:
        """Submit a task and bring its agent to its first instruction."""
        agent = self.assign(task_id, agent_id, **options)
        self.submit(c.StartAgent(agent, "bubblewrap"))
        return agent

    def fail(
        self,
        agent_id: str = "a",
        *,
        then: str = "b",
        reason: Reason = Reason.AGENT_ERROR,
        retryable: bool = True,
    ) -> list[e.Event]:
        """Fail an agent; its retry would be due in a minute."""
        at = self.now + timedelta(minutes=1)
        return self.submit(
            c.FailAgent(AgentId(agent_id), reason, "exit status 1", retryable, AgentId(then), at)
        )

    def clean(self, agent_id: str = "a") -> None:
        """Record that the agent's resources are gone."""
        agent = self.agent(agent_id)
        self.record(e.AgentCleanup(task_id=agent.task_id, agent_id=agent.id))

    def agent(self, agent_id: str = "a") -> Agent:
        """Return the agent, which must be in the state."""
        return self.state.agents[AgentId(agent_id)]

    def task(self, task_id: str = "t") -> Task:
        """Return the task, which must be in the state."""
        return self.state.tasks[TaskId(task_id)]


def names(events: list[e.Event]) -> list[str]:
    """Return the events' names on the wire."""
    return [event.name for event in events]


def assert_sound(state: State) -> None:
    """Assert what holds after every commit, whatever happened before."""
    live = [agent for agent in state.agents.values() if agent.live]
    assert state.queued == sum(not agent.active for agent in live)
    assert state.active == sum(agent.active for agent in live)
    assert worst_of(cut=state.cut, last_chance=state.last_chance) is worst_active(live)
    assert state.cut + state.last_chance == sum(agent.active and agent.crashes > 0 for agent in live)
    assert len({agent.task_id for agent in live}) == len(live), "J5: two live agents of one task"
    for task in state.tasks.values():
        if not task.status.ended:
            agent = state.agents[task.agent_id]
            assert agent.live, "J7: an open task that nobody works on or waits for"
            assert agent.attempt == task.attempt
            assert (task.status == "pending") == (not agent.active)
    for agent in live:
        assert state.tasks[agent.task_id].agent_id == agent.id
    assert all(not agent.clean for agent in state.agents.values()), "what is over for good is pruned"
