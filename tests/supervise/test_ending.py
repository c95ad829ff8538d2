"""What an exception of a run means for its agent."""

from __future__ import annotations

import pytest

from orchestrator import errors
from orchestrator.core.model import Reason
from orchestrator.supervise.ending import RunFailed, failure_of
from sandbox.base import SandboxLaunchFailed, SandboxUnavailable

CASES: list[tuple[BaseException, Reason, bool]] = [
    (RunFailed(Reason.GATE_REJECTED, "rejected"), Reason.GATE_REJECTED, False),
    (errors.RepositoryUnreachable("no answer"), Reason.REPOSITORY_ERROR, True),
    (errors.BranchMissing("no branch"), Reason.REPOSITORY_ERROR, False),
    (errors.PushRejected("hook said no"), Reason.PUSH_FAILED, False),
    (errors.LeaseLost("moved"), Reason.CONFLICT, True),
    (errors.ImportRefused("fsck"), Reason.POLICY_VIOLATION, False),
    (errors.AgentError("no such program"), Reason.AGENT_ERROR, False),
    (SandboxLaunchFailed("no"), Reason.SANDBOX_ERROR, True),
    (SandboxUnavailable("none"), Reason.SANDBOX_ERROR, False),
    (ValueError("a bug"), Reason.SANDBOX_ERROR, False),
    (
        ExceptionGroup("several", [errors.BranchMissing("first"), ValueError("second")]),
        Reason.REPOSITORY_ERROR,
        False,
    ),
]


@pytest.mark.parametrize(("error", "reason", "retryable"), CASES, ids=lambda case: repr(case)[:50])
def test_exception_becomes_a_reason_and_says_whether_a_retry_can_help(
    error: BaseException, reason: Reason, retryable: bool
) -> None:
    failed = failure_of(error)
    assert (failed.reason, failed.retryable) == (reason, retryable)
    assert failed.error


def test_error_text_names_what_went_wrong() -> None:
    assert failure_of(errors.BranchMissing("there is no branch x")).error == "there is no branch x"
    assert failure_of(ValueError("a bug")).error == "ValueError: a bug"
