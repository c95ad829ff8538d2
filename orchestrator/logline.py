"""The process's own log: one event a line, JSON for machines, plain words on a terminal.

Whatever an agent or a client wrote can stand in a log line, so control characters never reach the output raw
(S16). Set up once by `assembly`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from orchestrator.core.moment import iso
from orchestrator.core.text import escaped

#: The attributes that every record has; what is beyond them was given as `extra`.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def redact_log(redact: Callable[[str], str]) -> None:
    """Let no line of the log hold what `redact` takes out of a text."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, Line):
            handler.formatter.redact = redact


def set_up_logging(level: str, form: str) -> None:
    """Send the log to standard error, in the given form (`auto` is console on a terminal, else JSON)."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(ConsoleLine() if console else JsonLine())
    root = logging.getLogger()
    root.handlers[:] = [out]
    root.setLevel(level.upper())
    logging.getLogger("hypercorn.access").setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


class Line(logging.Formatter):
    """A record as one line that holds nothing that nobody may read."""

    redact: Callable[[str], str] = staticmethod(str)


class JsonLine(Line):
    """A record as one line of JSON, which escapes every control character by itself but one: DEL."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": iso(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.redact(record.getMessage()),
            **{name: self.redact(v) if isinstance(v, str) else v for name, v in _fields(record).items()},
        }
        if record.exc_info:
            line["error"] = self.redact(self.formatException(record.exc_info))
        return json.dumps(line, default=str).replace("\x7f", "\\u007f")


class ConsoleLine(Line):
    """A record as one line for a person."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, its control characters escaped: a line feed would make two records of one."""
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        said = self.redact(f"{record.getMessage()} {fields}".rstrip())
        text = escaped(f"{moment} {record.levelname.lower():7} {said}".rstrip())
        if record.exc_info:
            text += "\n" + escaped(self.redact(self.formatException(record.exc_info)), keep="\n\t")
        return text
