"""What goes wrong, and when: by a step, an agent's first requests, for the whole API, by a seeded storm.

A FAULT is a dict. With a status it is an answer; with a kind it is something that happens to the answer:

    {"status": 529}                           also 400, 401, 402, 403, 404, 413, 429, 500, 504
    {"status": 429, "retry_after": 2}         seconds; "message", "type" and "headers" may be given, too
    {"limit_resets_in_s": 3600}               429: the usage limit is reached (or "limit_resets_at")
    {"kind": "reset"}                         the connection is reset (RST; on a unix socket: closed)
    {"kind": "cut"}                           it ends (FIN) in the middle of the body
    {"kind": "end"}                           the body ends as it should, before its last events
    {"kind": "error", "type": "overloaded_error"}   an error event in the stream
    {"kind": "garbage"}                       bytes that are neither HTTP nor events; then the connection ends
    {"kind": "hang"}                          nothing more comes, until the client leaves

`"after": N` lets it happen after N events of the stream; without it, it happens before the answer's head (for
"cut", "end" and "error": after three events). `"times": N` lets it happen N times only; `"wait_s"` delays it.

A STORM is `{"seed": 7, "most_in_a_row": 3, "faults": [{"p": 0.1, "status": 529}, ...]}`: each request of
an agent has the same fate in every run with that seed, whatever the others do, and an agent never fails more
often in a row.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.kit.messages import wire
from tests.kit.messages.script import BadScriptError, Turn

Fault = Mapping[str, Any]

KINDS = {"reset", "cut", "end", "error", "garbage", "hang"}
IN_STREAM = {"cut", "end", "error"}
EVENTS_BEFORE = 3


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is an error: status, error type, message and headers of its own."""

    status: int
    kind: str
    message: str
    headers: Mapping[str, str]


class Weather:
    """Chooses the fault that meets a request; counts what it must."""

    def __init__(self) -> None:
        self._spent: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()

    def forget(self) -> None:
        """Count the faults of the whole API anew."""
        del self._spent["api"]

    def fault_of(self, turn: Turn, settings: Mapping[str, Any]) -> Fault | None:
        """Return the fault that meets the agent's next request, if one does."""
        self._requests[turn.agent] += 1
        for fault, counter in (
            (settings.get("fault"), "api"),
            (self._storm(turn.agent, settings.get("storm")), "storm"),
            (turn.script.get("fail_first"), f"first:{turn.agent}"),
            (turn.step.get("fault"), f"step:{turn.agent}:{turn.number}"),
        ):
            if fault and self._happens(fault, counter):
                self._in_a_row[turn.agent] += 1
                return dict(fault)
        self._in_a_row[turn.agent] = 0
        return None

    def _happens(self, fault: Fault, counter: str) -> bool:
        if "status" not in fault and "kind" not in fault and limit_reset(fault, 0) is None:
            raise BadScriptError(f"a fault has a status or a kind: {dict(fault)!r:.200}")
        if "kind" in fault and fault["kind"] not in KINDS:
            raise BadScriptError(f"there is no fault of the kind {fault['kind']!r}")
        self._spent[counter] += 1
        return self._spent[counter] <= fault.get("times", self._spent[counter])

    def _storm(self, agent: str, storm: Mapping[str, Any] | None) -> Fault | None:
        if not storm or self._in_a_row[agent] >= storm.get("most_in_a_row", 3):
            return None
        drawn = random.Random(f"{storm.get('seed', 0)}:{agent}:{self._requests[agent]}").random()
        for fault in storm["faults"]:
            drawn -= fault["p"]
            if drawn < 0:
                return dict(fault)
        return None


def limit_reset(fault: Fault, now: float) -> int | None:
    """Return when a reached usage limit ends, in seconds since the epoch."""
    if "limit_resets_at" in fault:
        return int(fault["limit_resets_at"])
    if "limit_resets_in_s" in fault:
        return int(now + fault["limit_resets_in_s"])
    return None


def refusal_of(fault: Fault, now: datetime) -> Refusal | None:
    """Return the answer of a fault with a status."""
    headers = {str(name): str(value) for name, value in (fault.get("headers") or {}).items()}
    reset = limit_reset(fault, now.timestamp())
    if reset is not None:
        headers = {
            "anthropic-ratelimit-unified-status": "rejected",
            "anthropic-ratelimit-unified-reset": str(reset),
            "anthropic-ratelimit-unified-representative-claim": "five_hour",
            "anthropic-ratelimit-unified-5h-status": "rejected",
            "anthropic-ratelimit-unified-5h-reset": str(reset),
            "retry-after": str(max(0, int(reset - now.timestamp()))),
            **headers,
        }
    elif "status" not in fault:
        return None
    if "retry_after" in fault:
        headers["retry-after"] = str(fault["retry_after"])
    status = int(fault.get("status", 429))
    kind = fault.get("type") or wire.ERROR_TYPES.get(status, "api_error")
    return Refusal(
        status, kind, fault.get("message") or wire.MESSAGES.get(status, "something is wrong"), headers
    )


def events_before(fault: Fault) -> int | None:
    """Return after how many events the fault happens; None is before the answer's head."""
    if "after" in fault:
        return int(fault["after"])
    return EVENTS_BEFORE if fault["kind"] in IN_STREAM else None
