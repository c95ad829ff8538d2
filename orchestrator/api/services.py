"""What the API is given: the rooms beside and below it, as values and functions.

The assembly fills this in; so the API imports neither `supervise` nor any runtime, and a test can serve
it from a real store and a scripted kill switch.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from orchestrator.core.mirror import MirrorCompared
from orchestrator.core.model import Agent, AgentId
from orchestrator.core.reports import GarbageReport, KillAllReport, KillReport, SwitchReport
from orchestrator.core.salvages import SalvageDetail, SalvageDropped, SalvageList
from orchestrator.core.spec import TaskSpec
from orchestrator.journal.store import Store


class KillSwitch(Protocol):
    """Ends agents, with proof."""

    async def kill(self, agent_id: AgentId, *, actor: str) -> KillReport:
        """End one agent; raises `AgentUnknown` or `AlreadyEnded`."""
        ...

    async def kill_all(self, *, actor: str, freeze: bool = False) -> KillAllReport:
        """End every live agent; with `freeze` nothing is admitted any more."""
        ...


class Switches(Protocol):
    """Lets everything stand still, go on, or run out."""

    async def freeze(self, *, actor: str) -> SwitchReport:
        """Stop every process and admit nothing; raises `FreezeNotLatched`."""
        ...

    async def thaw(self, *, actor: str) -> SwitchReport:
        """Let everything go on where it stood; where nothing is frozen, end a drain."""
        ...

    async def drain(self, *, actor: str) -> SwitchReport:
        """Admit nothing, and let what runs end."""
        ...


class Viewer(Protocol):
    """One who looks at a terminal."""

    async def next_piece(self) -> bytes:
        """Return what is shown next, nothing once the terminal is gone."""
        ...


class Terminal(Protocol):
    """An agent's terminal, while its program lives."""

    #: Why there will be no more output; empty while there may be.
    over: str

    @property
    def crowded(self) -> bool:
        """Whether nobody more may look on."""
        ...

    def watch(self, *, replay: bool = False) -> AbstractContextManager[Viewer]:
        """Look on until the block is left; from the kept output on, or from a picture of the screen."""
        ...

    def type_nowait(self, message: bytes) -> bool:
        """Type; return False where too much waits that the program has not read."""
        ...

    def resize_nowait(self, columns: int, rows: int) -> None:
        """Give it another size."""
        ...


class Salvages(Protocol):
    """Work that did not land."""

    async def list(self) -> SalvageList:
        """Tell all of it."""
        ...

    async def show(self, agent_id: str) -> SalvageDetail | None:
        """Tell what is kept of one agent."""
        ...

    async def patch(self, agent_id: str, *, max_bytes: int) -> bytes | None:
        """Return it as a patch."""
        ...

    async def drop(self, agent_id: str, *, actor: str) -> SalvageDropped | None:
        """Keep it no more; None where there was nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one client may ask for; generous, so that only a runaway meets them."""

    requests_per_s: float = 500.0
    burst: int = 2000
    #: Requests with a wrong token or none, by address.
    refusals_per_s: float = 20.0
    refusals_burst: int = 300
    body_bytes: int = 1024 * 1024
    #: Seconds for a whole body to arrive, and how many bytes of its length add a further one.
    body_deadline_s: float = 30.0
    body_bytes_per_s: float = math.inf
    #: Seconds between two comments on a quiet stream.
    heartbeat_s: float = 15.0

    def body_s(self, declared: int) -> float:
        """Return the seconds for a body of so many bytes; one that is too large is given no more for it."""
        return self.body_deadline_s + min(declared, self.body_bytes) / self.body_bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that the endpoints need."""

    store: Store
    kill_switch: KillSwitch
    switches: Switches
    #: Refuses (422) a repository, runtime or gate that cannot be used here; returns the name of the runtime.
    check_task: Callable[[TaskSpec], str]
    #: The diff of the agent's candidate, None where there is none.
    diff: Callable[[Agent], Awaitable[bytes | None]]
    #: Live figures: memoryBytes, cpuSeconds, processes.
    resources: Callable[[AgentId], dict[str, Any]]
    #: The agent's terminal while its program lives, None where there is none.
    terminal: Callable[[AgentId], Terminal | None]
    #: Finds what nobody needs on the host and, unless asked for a dry run, removes it.
    collect_garbage: Callable[[bool], Awaitable[GarbageReport]]
    #: Compares Valkey with the journal and, where asked, repairs it; raises `MirrorUnavailable`.
    compare_mirror: Callable[[bool], Awaitable[MirrorCompared]]
    #: Work that did not land and is kept.
    salvages: Salvages
    #: The limits that the sandbox really enforces on this host.
    enforced: tuple[str, ...]
    #: Those that it only measures, and the way it kills; see `sandbox.base.Backend`.
    watched: tuple[str, ...]
    tier: str
    #: The parts' conditions by name; one beginning with `failed` makes the whole not ready.
    readiness: Callable[[], Awaitable[dict[str, str]]]
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    yolo: bool
    #: The admin token.
    api_key: str
    version: str
    new_id: Callable[[], str]
    clock: Callable[[], datetime]
    #: When the process started, by `trio.current_time`.
    started: float
    #: Takes out of a text what nobody may read.
    redact: Callable[[str], str] = str
    limits: Limits = field(default_factory=Limits)
