"""What a kill and a switch answer: what was found and done, as numbers.

Made by `supervise`, shown by `api`; siblings that may not import each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.model import AgentId


@dataclass(frozen=True, slots=True)
class KillReport:
    """One agent's end: `remaining` is 0 exactly when the kernel says that its process tree is empty."""

    agent_id: AgentId
    killed_processes: int
    remaining: int
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class KillAllReport:
    """The end of every live agent at once."""

    total: int
    killed: int
    failed: int
    errors: tuple[str, ...]
    remaining: int
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing on the host that nobody needs; `error` says why it was not removed though it should be."""

    kind: str
    name: str
    bytes: int
    why: str
    removed: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What was found, and what became of it."""

    dry_run: bool
    items: tuple[Garbage, ...]


@dataclass(frozen=True, slots=True)
class SwitchReport:
    """How the whole stands after a freeze, a thaw or a drain, and what it took.

    `agents` and `processes` count what the switch met alive, all of which stands still after a freeze;
    `starting` counts sandboxes on their way to the first instruction, which are stopped as they reach it.
    `elapsed_ms` is until the last process was stopped or let go on.
    """

    frozen: bool
    draining: bool
    agents: int
    processes: int
    starting: int
    elapsed_ms: float
