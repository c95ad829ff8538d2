"""What a gate is shown, and what every gate keeps to.

The invariant: a gate learns what to do from the base commit (`read_base`, `names_base`) and does it to the
candidate (`open_checkout`), never the other way round. Callers: `gates.base`, every gate, and
`supervise.exhibiting`, which fills the exhibit in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from orchestrator.core.asking import Answer, Request
from orchestrator.core.model import Verdict
from orchestrator.core.share import Share
from orchestrator.core.spec import TaskSpec
from sandbox.base import Backend, Bind, Directory, Layers, Limits

#: Makes a request to a model by the function given, as often as needed, at the expense of the candidate's
#: agent: its budgets, and the provider's limits, hold. Raises what `agents.base.Meter.ask` raises.
Ask = Callable[[Request, Callable[[], Awaitable[Answer]]], Awaitable[Answer]]


class Checkout(Protocol):
    """A fresh checkout of the candidate, made for one gate and thrown away after."""

    @property
    def workspace(self) -> Layers | Directory:
        """The files, for a sandbox."""
        ...

    @property
    def binds(self) -> tuple[Bind, ...]:
        """What the sandbox must show beside them."""
        ...


class Output(Protocol):
    """The way into the agent's log: bounded by the log itself, and cheap."""

    async def __call__(self, stream: str, line: str) -> None:
        """Log one line of `stdout`, `stderr` or `system`."""
        ...


class ReadDiff(Protocol):
    """The change over the base as a patch, cut with a mark at so many bytes."""

    async def __call__(self, max_bytes: int, *paths: str, text: bool = False) -> bytes:
        """Return the patch: of the paths that fit one of git's patterns, where any are given.

        `text` shows also what git takes for binary.
        """
        ...


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A candidate, the base that it grew from, and the means to try it."""

    #: Whose it is: the label of every sandbox that is opened for it, by which a crash's leavings are found.
    agent_id: str
    spec: TaskSpec
    commit: str
    base: str
    #: The content of a file of the base commit, or None where it has no such file.
    read_base: Callable[[str], Awaitable[bytes | None]]
    #: The content of a file of the candidate, or None; raises `RepositoryError` for a link, and for one too
    #: large to be read.
    read_candidate: Callable[[str], Awaitable[bytes | None]]
    #: The names in a directory of the candidate; none where there is none.
    names_candidate: Callable[[str], Awaitable[tuple[str, ...]]]
    #: The names in a directory of the base commit, of the top for an empty path; none where there is none.
    names_base: Callable[[str], Awaitable[tuple[str, ...]]]
    read_diff: ReadDiff
    open_checkout: Callable[[], AbstractAsyncContextManager[Checkout]]
    backend: Backend
    limits: Limits
    output: Output
    #: How often this task's work has been judged, this time included.
    round: int
    #: The paths that the candidate adds, changes or removes.
    changed: tuple[str, ...]
    #: A fresh checkout of the base, to be compared with; None where nothing is to be compared.
    open_base: Callable[[], AbstractAsyncContextManager[Checkout]] | None
    #: The way to a model, where there is one.
    ask: Ask | None = None
    #: How much of what would land agents wrote, the part alone where others have counted, or why that is not
    #: known.
    share: Share | float | str = "nobody has counted it"


class Gate(Protocol):
    """One check."""

    name: str

    async def judge(self, exhibit: Exhibit, *, deadline_s: float) -> Verdict:
        """Judge the candidate within the deadline; whatever is the candidate's fault is a rejection."""
        ...
