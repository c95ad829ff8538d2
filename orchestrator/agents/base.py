"""The contract that every runtime keeps: open a session, take turns in it, say how each ended.

The invariant: a runtime starts programs only through `Session.backend`, which tracks every sandbox for the
kill switch, and leaves nothing behind when its block is left, cancelled or not. It knows no wall clock: the
caller's cancel scope does. Callers: `supervise.run`, which drives the turns, and the runtimes, which
implement it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trio

from orchestrator.core.asking import Answer, Request
from orchestrator.core.liveness import Evidence
from orchestrator.core.model import Usage
from orchestrator.core.spec import TaskSpec
from orchestrator.core.words import Message
from orchestrator.errors import AgentError
from sandbox.base import Backend, Bind, Directory, Exit, Layers, Limits

__all__ = [
    "MAX_TEXT",
    "Answer",
    "Inbox",
    "Meter",
    "NoInbox",
    "Output",
    "Prompt",
    "Request",
    "Runtime",
    "Session",
    "ToolUnpriced",
    "TurnResult",
    "Turns",
    "unnoticed",
]

#: Characters of a turn's text that its result keeps.
MAX_TEXT = 4000


class ToolUnpriced(AgentError):
    """A tool that runs at the provider costs more than its tokens, and there is a budget of money."""

    code = "tool_unpriced"


class Meter(Protocol):
    """Counts what one agent spends on models, and holds it to its budgets and to the provider's limits."""

    async def ask(self, request: Request, ask: Callable[[], Awaitable[Answer]], *, prompt: int) -> Answer:
        """Make a request where the budgets and the provider admit it, and journal the turn before returning.

        Where `ask` is cancelled, what it cost by then is owed, and journaled at the next request or the end.
        `ask` is called again after a `ProviderFailure` that passes by itself: the agent is parked meanwhile.
        Raises `BudgetExceeded`, `ModelUnpriced`, `ToolUnpriced`, `ProviderRefused` where waiting does not
        help, and `ProviderUnavailable` where an answer broke off that was passed on already.
        """
        ...

    async def check_tools(self, calls: int) -> None:
        """Raise `BudgetExceeded` where there is no room for so many tool calls more; asked before them."""
        ...

    async def count_tools(self, calls: int, content: str | None = None) -> None:
        """Journal tool calls, and what came of them, once it is known; raises `BudgetExceeded`."""
        ...


class Output(Protocol):
    """The way into the agent's log: bounded by the log itself, and cheap."""

    async def __call__(self, stream: str, line: str) -> None:
        """Log one line of `stdout`, `stderr` or `system`."""
        ...


class Inbox(Protocol):
    """What people, and the supervisor, say to the agent while it works.

    A runtime that can tell its agent something in the middle of a prompt looks here; what it leaves is told
    by a further prompt, after the present one was answered.
    """

    def pending(self) -> tuple[Message, ...]:
        """Return what the agent was not told yet, oldest first; `agents.steering` makes a text of it."""
        ...

    async def wait(self, after: int = 0) -> None:
        """Wait until a message past this number is there to be told; at once where it is."""
        ...

    async def heard(self, message: Message) -> None:
        """Journal that the agent was told all up to this message.

        To be called once that outlives a crash; until then a message is told again after one.
        """
        ...


class NoInbox:
    """The inbox of an agent to whom nobody speaks."""

    def pending(self) -> tuple[Message, ...]:
        """See `Inbox`."""
        return ()

    async def wait(self, after: int = 0) -> None:
        """See `Inbox`."""
        await trio.sleep_forever()

    async def heard(self, message: Message) -> None:
        """See `Inbox`."""
        await trio.lowlevel.checkpoint()


def unnoticed(_evidence: Evidence) -> None:
    """Notice nothing."""


@dataclass(frozen=True, slots=True)
class Session:
    """Everything that a runtime needs to work for one agent."""

    agent_id: str
    task_id: str
    #: 1 for the first attempt at the task.
    attempt: int
    spec: TaskSpec
    backend: Backend
    workspace: Layers | Directory
    binds: tuple[Bind, ...]
    limits: Limits
    #: The commit that the work starts from, and the branch that it will land on.
    base: str
    branch: str
    #: A directory of ours that agents cannot write; files in it bear the agent's id.
    scratch: Path
    #: Whether an earlier life of this agent was cut by a crash or a restart.
    resumed: bool
    output: Output
    #: To be awaited once the first turn's program runs: it journals `agent.running`.
    started: Callable[[], Awaitable[None]]
    #: Every request to a model goes through it.
    meter: Meter
    #: Return the `content` of all turns and tool results on this worktree, oldest first.
    recall: Callable[[], Awaitable[list[str]]]
    #: Return a directory that stays with the worktree across restarts, the agents' user's to write.
    open_home: Callable[[], Path]
    #: What is said to the agent while it works.
    inbox: Inbox = field(default_factory=NoInbox)
    #: To be told each sign of life that only the runtime sees: a line of the agent's protocol, and by
    #: `core.liveness.of_tool` each tool's result that no other way tells. Requests to a model are known.
    note: Callable[[Evidence], None] = unnoticed
    #: Where the agent leaves its result, as it sees it: one of `binds` shows the directory, to write in.
    result_file: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked in one turn; turns are numbered from 1.

    Messages bear the number of the prompt that they follow; `message` is that of the last of them, else 0.
    """

    text: str
    number: int
    message: int = 0


@dataclass(frozen=True, slots=True)
class TurnResult:
    """How a turn ended; `text` is the end of what the agent said, at most `MAX_TEXT` characters."""

    ok: bool
    stop_reason: str
    exit: Exit | None
    text: str
    usage: Usage
    duration_ms: float
    #: Whether the turns that it took are in the journal already, by `Session.meter`; else it is one turn.
    metered: bool = False


class Turns(Protocol):
    """A live conversation with one agent."""

    async def turn(self, prompt: Prompt) -> TurnResult:
        """Take one turn, to its end."""
        ...


class Runtime(Protocol):
    """A kind of program that does the thinking."""

    name: str

    def check(self, spec: TaskSpec) -> None:
        """Raise `FieldRefused` where the task lacks what this runtime needs; called when it is submitted."""
        ...

    def open(self, session: Session) -> AbstractAsyncContextManager[Turns]:
        """Begin a conversation; leaving the block ends everything that it started."""
        ...
