"""The request log: one JSON line as a request arrives, one as it ends; written by the API, read by tests.

Times are of the monotonic clock, which all processes of a host share, in seconds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: How a request can end, beside "cut by script: KIND".
SERVED = "served"
CLIENT_LEFT = "cut by the client"
STOPPED = "the API was stopped"
UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the API saw it; `ended_s` and `seconds` are None as long as it goes on."""

    number: int
    arrived_s: float
    in_flight: int
    method: str
    path: str
    headers: dict[str, str]
    model: str
    messages: int
    stream: bool
    body_bytes: int
    body_sha256: str
    agent: str
    step: int
    #: the answer's status, 0 where none was sent
    status: int
    #: "served", "cut by the client", "cut by script: KIND", "the API was stopped" or "unfinished"
    how: str
    #: events of the stream that were sent
    events: int
    seconds: float | None
    #: what a served answer says that it cost
    usage: dict[str, Any]
    #: what was wrong with the request or its script, as the client was told
    problem: str
    #: the request's body, where the API was asked to keep bodies
    body: Any

    @property
    def ended_s(self) -> float | None:
        """When it ended."""
        return None if self.seconds is None else self.arrived_s + self.seconds

    @property
    def key(self) -> str:
        """The credential that came with it."""
        return self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")


class RequestLog:
    """Writes the lines; each is one write, so a reader sees whole lines but perhaps the last."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def note(self, number: int, **what: object) -> None:
        """Add what is now known of a request."""
        os.write(self._file, json.dumps({"number": number, **what}).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def now_s() -> float:
    """Return the time as the log has it."""
    return time.monotonic()


def read(lines: Iterable[str]) -> list[Request]:
    """Return the requests that a log tells of, in the order in which they arrived."""
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        if line.endswith("\n"):
            said = json.loads(line)
            found.setdefault(said["number"], {}).update(said)
    unknown = {
        "model": "",
        "messages": 0,
        "stream": False,
        "agent": "",
        "step": 0,
        "status": 0,
        "how": UNFINISHED,
        "events": 0,
        "seconds": None,
        "usage": {},
        "problem": "",
        "body": None,
    }
    return [Request(**{**unknown, **said}) for _, said in sorted(found.items())]
