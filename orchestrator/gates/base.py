"""Which gates a task gets, and their run, side by side.

The invariant: a gate that a task names is run or the task is refused when it is submitted; a gate that only
its profile names and that this version lacks is reported as skipped, never as passed. Callers: the API
(`check_gates`) and `supervise.run` (the rest).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import trio

from orchestrator.core.model import Verdict
from orchestrator.core.spec import GateProfile, TaskSpec
from orchestrator.errors import FieldRefused
from orchestrator.gates.exhibit import Checkout, Exhibit, Gate, Output
from orchestrator.gates.tests import TestsGate

__all__ = [
    "GATES",
    "KNOWN_GATES",
    "Checkout",
    "Exhibit",
    "Gate",
    "Output",
    "Plan",
    "check_gates",
    "plan_gates",
    "run_gates",
]

#: Every gate that the orchestrator has a name for, in the order of their cost.
KNOWN_GATES = ("typecheck", "lint", "tests", "coverage", "build", "integration", "ai-review")

#: The gates of this version.
GATES: Mapping[str, Gate] = MappingProxyType({"tests": TestsGate()})

_OF_PROFILE = {
    GateProfile.STRICT: KNOWN_GATES,
    GateProfile.STANDARD: ("typecheck", "lint", "tests", "coverage"),
    GateProfile.MINIMAL: ("tests",),
    GateProfile.CUSTOM: (),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The gates to run, and those of the profile that this version does not have."""

    run: tuple[str, ...]
    skipped: tuple[str, ...]


def plan_gates(profile: GateProfile, gates: Sequence[str] | None) -> Plan:
    """Return the gates of the profile and those named beside it, each once, in the order of `KNOWN_GATES`."""
    wanted = {*_OF_PROFILE[profile], *(gates or ())}
    ordered = (*(name for name in KNOWN_GATES if name in wanted), *sorted(wanted - set(KNOWN_GATES)))
    return Plan(
        run=tuple(name for name in ordered if name in GATES),
        skipped=tuple(name for name in ordered if name not in GATES),
    )


def check_gates(spec: TaskSpec) -> None:
    """Raise `FieldRefused` where the task names a gate that cannot be run here."""
    for name in spec.gates or ():
        if name not in GATES:
            known = (
                f"{name!r} is not in this version" if name in KNOWN_GATES else f"there is no gate {name!r}"
            )
            raise FieldRefused("gates", f"{known} (it has: {', '.join(sorted(GATES))})")


async def run_gates(
    names: Sequence[str],
    exhibit: Exhibit,
    *,
    deadline_s: float,
    judged: Callable[[Verdict], Awaitable[None]],
) -> tuple[Verdict, ...]:
    """Run the gates side by side, tell `judged` each verdict at once; return all in the order of names."""
    verdicts: dict[str, Verdict] = {}
    failures: list[Exception] = []

    async def run(name: str) -> None:
        try:
            verdict = await GATES[name].judge(exhibit, deadline_s=deadline_s)
            verdicts[name] = verdict
            await judged(verdict)
        except Exception as error:  # raised below, bare: callers tell errors apart by their type
            failures.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for name in dict.fromkeys(names):
            nursery.start_soon(run, name)
    if failures:
        raise failures[0]
    return tuple(verdicts[name] for name in dict.fromkeys(names))
