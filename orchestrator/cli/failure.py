"""How a command ends badly: what went wrong, what would help, and the exit status that says so.

The invariant: a failure is one line for a person, or one problem document under `--json`, always on
standard error. Raised by commands, caught in `orchestrator.cli.program`.
"""

from __future__ import annotations

import signal
from typing import Any

#: Exit statuses; 0 is done.
ASKED_FOR_FAILED = 1
USAGE = 2
UNREACHABLE = 3
SIGNALLED = 128  # and the signal's number, as shells say it
PIPE_CLOSED = SIGNALLED + signal.SIGPIPE


class Failed(Exception):
    """What was asked for did not happen."""

    def __init__(
        self,
        detail: str,
        *,
        code: str = "failed",
        fix: str = "",
        exit_status: int = ASKED_FOR_FAILED,
        status: int | None = None,
        errors: tuple[Any, ...] = (),
    ) -> None:
        self.detail = detail
        self.code = code
        self.fix = fix
        self.exit_status = exit_status
        self.status = status
        self.errors = errors
        super().__init__(detail)

    def problem(self) -> dict[str, Any]:
        """Return the failure as a problem document."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": self.code.replace("_", " "),
            "code": self.code,
            "detail": self.detail,
        }
        if self.status is not None:
            document["status"] = self.status
        if self.fix:
            document["fix"] = self.fix
        if self.errors:
            document["errors"] = list(self.errors)
        return document


class Interrupted(Exception):
    """A signal ended the command."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"signal {number}")
