"""How an agent's run ended, and what an exception says about that.

The order of truth at an end is kept in `supervisor`: was it cancelled (and why), then did it fail, then did
it succeed.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.model import Reason
from orchestrator.errors import OrchestratorError
from sandbox.base import SandboxError


@dataclass(frozen=True, slots=True)
class Done:
    """The run ended well."""

    reason: Reason
    commit: str | None = None
    branch: str | None = None
    #: What of the agent's work did not count, where nothing landed.
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The run failed."""

    reason: Reason
    error: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Killed:
    """Somebody ended the run; `actor` asked for it."""

    reason: Reason
    actor: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The orchestrator stops; the agent goes on at its next start."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """What the agent goes on with cannot be had for the moment; it waits for that, and its work stays."""

    error: str


Ending = Done | Failed | Killed | Interrupted | Postponed


class RunFailed(Exception):
    """The run cannot go on."""

    def __init__(self, reason: Reason, error: str, *, retryable: bool = False) -> None:
        super().__init__(error)
        self.failed = Failed(reason, error, retryable)


class RunPostponed(Exception):
    """The run cannot go on now."""


def failure_of(error: BaseException) -> Failed:
    """Return what an exception of a run means for its agent; the first of a group speaks for it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case RunFailed():
            return error.failed
        case SandboxError():
            return Failed(Reason.SANDBOX_ERROR, str(error), error.retryable)
        case OrchestratorError():
            return Failed(Reason(error.reason), error.detail, error.retryable)
        case _:
            return Failed(Reason.SANDBOX_ERROR, f"{type(error).__name__}: {error}", retryable=False)
