"""Say in a few words what an event means, for a person who watches.

The invariant: every event gives a line, also one that a newer supervisor made and this version does not
know; and whatever of it others wrote is printable. Called by `events`, `spawn --wait` and the demo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.cli.printable import one_line
from orchestrator.core.text import escaped

#: Tones, as styles of rich.
PLAIN, QUIET, GOOD, BAD, WARN = "", "dim", "green", "red", "yellow"

Payload = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """What happened in a word or two, what there is to say about it, and how it sounds."""

    what: str
    about: str = ""
    tone: str = PLAIN


def describe(event: Payload) -> Line:
    """Return an event of the API as a line."""
    name, payload = str(event.get("type", "event")), event.get("data")
    if not isinstance(payload, Mapping):
        payload = {}
    known = _LINES.get(name)
    try:
        return known(payload) if known else Line(escaped(name), _leftover(payload), QUIET)
    except (AttributeError, KeyError, TypeError, ValueError):  # from another version, with other fields
        return Line(escaped(name), _leftover(payload), QUIET)


def duration(ms: float) -> str:
    """Return milliseconds as a person says them."""
    if ms < 1000:
        return f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plural(number: int, noun: str) -> str:
    """Return `1 file`, `2 files`, `2 processes`."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"


def _queued(payload: Payload) -> str:
    waits_for = one_line(", ".join(map(str, payload.get("waitsFor") or ())))
    return f"priority {int(payload['priority'])}" + (f", after {waits_for}" if waits_for else "")


def _leftover(payload: Payload) -> str:
    return one_line(" ".join(f"{key}={value}" for key, value in payload.items() if value not in (None, "")))


def _short(commit: object) -> str:
    return escaped(str(commit or ""))[:10]


def _branch(payload: Payload) -> str:
    return escaped(str(payload["ref"]).removeprefix("refs/heads/"))


def _phase(payload: Payload) -> Line:
    phase = escaped(str(payload["phase"]))
    match phase:
        case "preparing":
            about = f"checks out {_short(payload.get('base'))}" if payload.get("base") else ""
        case "starting":
            about = f"in a {escaped(str(payload['sandbox']))} sandbox" if payload.get("sandbox") else ""
        case "working":
            told = payload.get("answered") is not None
            about = "a further turn, with " + ("messages" if told else "what was said against the last")
        case "checking":
            about = "the supervisor takes the work and judges it"
        case "landing" if payload.get("push"):
            about = f"pushes {_short(payload['push']['new'])} to {_branch(payload['push'])}"
        case _:
            about = ""
    return Line(phase, about, QUIET)


def _turn(payload: Payload) -> Line:
    number, code = int(payload["turn"]), payload.get("exitCode")
    how = escaped(str(payload["stopReason"])) if code is None else f"exit status {int(code)}"
    text = one_line(str(payload.get("text") or "").strip().rpartition("\n")[2], 80)
    said = f", last words: {text}" if text else ""
    tone = PLAIN if code in (0, None) else BAD
    return Line(f"turn {number} ended", f"{how} after {duration(float(payload['durationMs']))}{said}", tone)


def _gate(payload: Payload) -> Line:
    verdict = payload["verdict"]
    gate, round_, approved = (
        escaped(str(verdict["gate"])),
        int(verdict.get("round", 1)),
        verdict["approved"],
    )
    evidence = [duration(float(verdict.get("durationMs", 0)))]
    if verdict.get("tests") is not None and str(verdict["tests"]) not in str(verdict["message"]):
        evidence.insert(0, plural(int(verdict["tests"]), "test"))
    about = f"{one_line(str(verdict['message']), 120)} ({', '.join(evidence)}, round {round_})"
    return Line(f"gate {gate} {'passed' if approved else 'REJECTED'}", about, GOOD if approved else WARN)


def _commit(payload: Payload) -> Line:
    changed = plural(int(payload["files"]), "file")
    return Line(
        "commit",
        f"{_short(payload['commit'])} for {escaped(str(payload['branch']))}: {changed}, "
        f"+{int(payload['additions'])} -{int(payload['deletions'])}",
    )


def _completed(payload: Payload) -> Line:
    if payload.get("reason") == "no_changes":
        why = one_line(str(payload.get("error") or ""))
        return Line("COMPLETED", why or "nothing to change, nothing pushed", WARN if why else GOOD)
    return Line(
        "COMPLETED", f"{_short(payload.get('commit'))} is on {escaped(str(payload.get('branch')))}", GOOD
    )


def _failed(payload: Payload) -> Line:
    reason, error = escaped(str(payload["reason"])), one_line(str(payload.get("error") or ""))
    return Line("FAILED", f"{reason}: {error}" if error else reason, BAD)


def _killed(payload: Payload) -> Line:
    processes = plural(int(payload.get("killedProcesses", 0)), "process")
    remaining, elapsed = int(payload.get("remaining", 0)), duration(float(payload.get("elapsedMs", 0)))
    why = escaped(str(payload["reason"]))
    about = f"{processes} killed, {remaining} remaining, proven in {elapsed} ({why})"
    return Line("KILLED", about, WARN if remaining == 0 else BAD)


def _cleanup(payload: Payload) -> Line:
    left = [one_line(str(path), 80) for path in payload.get("leftBehind") or ()]
    if left:
        return Line("left behind", ", ".join(left), BAD)
    salvage = payload.get("salvage")
    return Line("cleaned up", f"unlanded work kept as {one_line(str(salvage), 80)}" if salvage else "", QUIET)


def _message(payload: Payload) -> Line:
    number = int(payload["number"])
    if payload.get("delivered"):
        return Line("heard", f"message {number}", QUIET)
    if payload.get("delivered") is False:
        return Line("not heard", f"message {number}, and what waited before it", WARN)
    sender = one_line(str(payload.get("sender") or "the supervisor"), 40)
    return Line(f"message {number}", f"{sender}: {one_line(str(payload['text']), 120)}")


def _fixed(what: str, about: str = "", tone: str = PLAIN) -> Callable[[Payload], Line]:
    return lambda _payload: Line(what, about, tone)


def _said(what: str, *fields: str, tone: str = PLAIN) -> Callable[[Payload], Line]:
    def line(payload: Payload) -> Line:
        parts = [one_line(str(payload[field])) for field in fields if payload.get(field) not in (None, "")]
        return Line(what, ": ".join(parts), tone)

    return line


_LINES: dict[str, Callable[[Payload], Line]] = {
    "task.submitted": _fixed("submitted", tone=QUIET),
    "task.queued": lambda payload: Line("queued", _queued(payload), QUIET),
    "task.assigned": _fixed("assigned", tone=QUIET),
    "task.executing": _fixed("executing", tone=QUIET),
    "task.completed": _said("task completed", "reason", tone=GOOD),
    "task.failed": _said("task failed", "reason", "error", tone=BAD),
    "task.cancelled": _said("task cancelled", "reason", tone=WARN),
    "task.retry_scheduled": lambda payload: Line(
        "retry", f"attempt {int(payload['attempt'])} at {escaped(str(payload['at']))}", WARN
    ),
    "agent.spawning": lambda payload: Line(
        "spawning", f"{escaped(str(payload['role']))}, attempt {int(payload['attempt'])}", QUIET
    ),
    "agent.phase": _phase,
    "agent.running": lambda payload: Line(
        "running",
        f"{escaped(str(payload['runtime']))} agent in a {escaped(str(payload['sandbox']))} sandbox",
    ),
    "agent.turn": _turn,
    "agent.attention": _said("attention", "message", tone=WARN),
    "agent.message": _message,
    "agent.parked": _said("parked", "message", tone=WARN),
    "budget.warning": _said("budget", "message", tone=WARN),
    "budget.exceeded": _said("BUDGET", "message", tone=BAD),
    "provider.throttled": _said("provider throttled", "model", "message", tone=WARN),
    "provider.recovered": _said("provider answers", "model", tone=GOOD),
    "agent.resumed": _fixed("resumed", "goes on where it stood", GOOD),
    "agent.completed": _completed,
    "agent.failed": _failed,
    "agent.killed": _killed,
    "agent.cleanup": _cleanup,
    "gate.passed": _gate,
    "gate.rejected": _gate,
    "gate.skipped": _said("gate skipped", "gate", "message", tone=QUIET),
    "secret.detected": _said("SECRET", "rule", "path", tone=BAD),
    "policy.violated": _said("POLICY", "rule", "path", "detail", tone=BAD),
    "conflict.predicted": lambda payload: Line(
        "overlap",
        f"with {one_line(str(payload['otherTaskId']), 80)}: "
        + one_line(", ".join(str(name) for name in payload["files"])),
        WARN,
    ),
    "conflict.detected": _said("CONFLICT", "detail", tone=BAD),
    "egress.allowed": lambda payload: Line(
        "reaches", f"{one_line(str(payload['host']), 80)}:{int(payload['port'])}", QUIET
    ),
    "egress.refused": _said("EGRESS refused", "host", "detail", tone=WARN),
    "commit.created": _commit,
    "push.completed": lambda payload: Line(
        "pushed", f"{_short(payload['push']['new'])} to {_branch(payload['push'])}", GOOD
    ),
    "push.rejected": _said("push rejected", "error", tone=BAD),
    "queue.paused": _fixed("queue paused", tone=WARN),
    "queue.resumed": _fixed("queue resumed", tone=GOOD),
    "queue.settings": lambda payload: Line("queue settings", _leftover(payload)),
    "control.frozen": _fixed("FROZEN", "every process stands still, nothing is admitted", BAD),
    "control.thawed": _fixed("thawed", tone=GOOD),
    "control.draining": _fixed("draining", "nothing is admitted", WARN),
    "yolo.used": _fixed("YOLO", "the quality gates were skipped", BAD),
    "system.started": lambda payload: Line(
        "supervisor up",
        f"version {escaped(str(payload['version']))}, {escaped(str(payload['sandbox']))} sandbox",
    ),
    "system.recovered": lambda payload: Line("recovered", _leftover(payload)),
    "system.degraded": _said("degraded", "part", "detail", tone=WARN),
    "system.stopping": _fixed("supervisor stops", tone=QUIET),
}
