"""How an agent's run ended, and what an exception says about that.

The order of truth at an end is kept in `supervisor`: was it cancelled (and why), then did it fail, then did
it succeed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.core.model import Reason
from orchestrator.errors import OrchestratorError, PushRejected, RepositoryError
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
    #: What it comes to where that does not pass within reason; None where it waits as long as it takes.
    failed: Failed | None = None


Ending = Done | Failed | Killed | Interrupted | Postponed


class RunFailed(Exception):
    """The run cannot go on."""

    def __init__(self, reason: Reason, error: str, *, retryable: bool = False) -> None:
        super().__init__(error)
        self.failed = Failed(reason, error, retryable)


class RunPostponed(Exception):
    """The run cannot go on now; where it has waited long enough, it has `failed`."""

    def __init__(self, error: str, failed: Failed | None = None) -> None:
        super().__init__(error)
        self.failed = failed


@contextmanager
def patient() -> Iterator[None]:
    """Let a run wait for a remote that does not answer, rather than fail: its work is done, and kept."""
    try:
        yield
    except RepositoryError as error:
        if isinstance(error, PushRejected) or not error.retryable:
            raise
        raise RunPostponed(error.detail, failure_of(error)) from error


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
