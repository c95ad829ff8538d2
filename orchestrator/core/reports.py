"""What a kill answers: the proof, as numbers.

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
