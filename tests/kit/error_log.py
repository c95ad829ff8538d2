"""Error log records that a test expects; any other fails the test.

An error that is logged and asserted by nobody is a defect or noise, and noise hides defects. Tests take what
they expect through the fixture `error_log`.
"""

from __future__ import annotations

import logging
import re


class ErrorLog(logging.Handler):
    """Every record of level ERROR or above since the test began."""

    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's text."""
        self.lines.append(f"{record.name}: {record.getMessage()}")

    def take(self, pattern: str) -> list[str]:
        """Return, and no longer object to, the records that match; fails where none does."""
        taken = [line for line in self.lines if re.search(pattern, line)]
        assert taken, f"no error was logged that matches {pattern!r}; logged: {self.lines}"
        self.lines = [line for line in self.lines if line not in taken]
        return taken
