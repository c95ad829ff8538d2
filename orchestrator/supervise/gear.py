"""What a run works with, and how far it has come: the parts that `run`, `delivery` and `salvage` share."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from orchestrator.agents.meter import AgentMeter
from orchestrator.agents.provider import Provider
from orchestrator.agents.purse import Purse
from orchestrator.agents.registry import Runtimes, make_runtimes
from orchestrator.core import events as e
from orchestrator.core.egress import Rules
from orchestrator.core.liveness import Patience
from orchestrator.core.model import Agent, PushIntent
from orchestrator.core.radar import Field
from orchestrator.core.spec import TaskSpec
from orchestrator.gates.base import Gates, Plan
from orchestrator.gates.judges import Judges
from orchestrator.gates.registry import make_gates
from orchestrator.journal.store import Store
from orchestrator.repo.landing import Doors
from orchestrator.repo.quarantine import Sealed
from orchestrator.repo.repositories import Repositories
from orchestrator.repo.worktree import Worktree
from orchestrator.secrets.redactor import redactor_of
from orchestrator.secrets.scan import Scanner
from orchestrator.supervise.backlog import Backlog
from orchestrator.supervise.pulse import Pulse
from orchestrator.supervise.tree import Tree
from sandbox.base import Backend, Limits

#: What a runtime's program may take where nobody says; it has to be enough.
MEMORY_MB = {"claude-code": 4096}


class Bell:
    """Wakes one who waits; a ring while nobody waits is heard by the next who does."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    def ring(self) -> None:
        """Wake who waits, or will."""
        self._rung.set()

    async def wait(self) -> None:
        """Wait for the next ring."""
        await self._rung.wait()
        self._rung = trio.Event()


@dataclass(frozen=True, slots=True)
class Tools:
    """What a run works with; made once at assembly, shared by all runs."""

    store: Store
    repositories: Repositories
    scratch: Path
    default_limits: Limits
    yolo: bool
    #: Where the operator's skills are.
    skills_dir: Path | None = None
    runtimes: Runtimes = field(default_factory=make_runtimes)
    gates: Gates = field(default_factory=make_gates)
    #: Who is asked: those gates, a coordinator, or both.
    judges: Judges = field(default_factory=Judges)
    #: Lets nothing leave that holds a secret.
    scanner: Scanner = field(default_factory=Scanner)
    #: The way to the model's provider, and what may be spent there.
    provider: Provider = field(default_factory=Provider)
    purse: Purse = field(default_factory=Purse)
    #: What agents and gates may reach outside.
    egress: Rules = field(default_factory=Rules)
    patience: Patience = field(default_factory=Patience)
    #: After how many days what did not land is kept no more; 0 is never.
    salvage_keep_days: int = 0
    #: Who changes which files, by repository.
    radar: dict[str, Field] = field(default_factory=lambda: defaultdict(Field))
    #: Globs of branches that nothing lands on.
    protected: tuple[str, ...] = ()
    #: Behind which one agent at a time lands on a branch.
    doors: Doors = field(default_factory=Doors)
    #: How long a repository's set-up may take where it does not say.
    setup_timeout_s: float = 900.0
    #: Calls the reaper, where something is left that no run takes care of.
    reaper_bell: Bell = field(default_factory=Bell)
    #: The work of ended agents that could not be salvaged yet.
    backlog: Backlog = field(default_factory=Backlog)


@dataclass(slots=True)
class Progress:
    """How far a run has come, for those who look at it from outside (diff, salvage)."""

    worktree: Worktree | None = None
    sealed: Sealed | None = None
    #: How much of what the candidate's branch adds to its target agents wrote, where that is known.
    ai_share: float | None = None
    #: Its gates, by the commit that says how they are run: what a commit says does not change.
    plans: dict[str, Plan] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One agent's run: its identity, its processes, and its tools."""

    agent: Agent
    spec: TaskSpec
    tree: Tree
    tools: Tools
    progress: Progress
    pulse: Pulse = field(default_factory=Pulse)
    #: By which the task's own code runs: the tree, with what it may reach outside.
    outlet: Backend | None = None
    #: What counts whatever is asked of models for it.
    meter: AgentMeter | None = None

    @property
    def backend(self) -> Backend:
        """The backend for code that may reach outside; the tree itself reaches nothing."""
        return self.outlet or self.tree

    @property
    def ids(self) -> dict[str, str]:
        """The two ids that every event of the run carries."""
        return {"task_id": self.agent.task_id, "agent_id": self.agent.id}

    @property
    def landed(self) -> PushIntent | None:
        """The push of this agent, or of an earlier life of it, that is known to have arrived."""
        agent = self.tools.store.state.agents.get(self.agent.id)
        return agent.push if agent is not None and agent.pushed else None

    @property
    def shared(self) -> bool:
        """Whether its worktree may stand on a shared checkout: one sandbox at a time is open on it."""
        return not self.tools.runtimes.keeps_running(self.agent.runtime)

    async def record(self, *events: e.Event) -> None:
        """Journal facts of this run; durable on return. On a full disk they wait, before an end does."""
        if self.tools.store.room.scarce:  # else what was decided is on its way before anything can cut it off
            await self.tools.store.room_to_spare()
        await self.tools.store.record(*events)

    async def output(self, stream: str, line: str) -> None:
        """Write a line into the agent's log."""
        clean = redactor_of(self.spec.options.env).text(line)
        await self.tools.store.logs.write(self.agent.id, stream, clean)


def limits_for(spec: TaskSpec, default: Limits, runtime: str = "") -> Limits:
    """Return the ceilings of a task's sandbox: what it asks for, else the host's, else its runtime's."""
    asked = spec.options.resources
    return replace(
        default,
        memory_mb=asked.memory_mb or default.memory_mb or MEMORY_MB.get(runtime),
        cpus=asked.cpus or default.cpus,
        pids=asked.pids or default.pids,
        disk_mb=asked.disk_mb or default.disk_mb,
    )
