"""Which gates a host has, which of them a task gets, and their run, side by side.

The invariant: a gate that a task names is run or the task is refused when it is submitted; a gate that only
its profile names and that this host lacks is reported as skipped, never as passed. Made by `gates.registry`;
callers: the API (`Gates.check`) and `supervise.judging` (the rest).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import trio

from orchestrator.core.model import Verdict
from orchestrator.core.spec import GateProfile, TaskSpec
from orchestrator.errors import FieldRefused
from orchestrator.gates.exhibit import Checkout, Exhibit, Gate, Output

__all__ = ["KNOWN_GATES", "Checkout", "Exhibit", "Gate", "Gates", "Output", "Phase", "Plan"]


class Phase(StrEnum):
    """When a gate is run: the fast ones first; the others see only what has passed those."""

    PRE_COMMIT = "pre-commit"
    POST_COMMIT = "post-commit"


_OF_PHASE = {
    Phase.PRE_COMMIT: ("typecheck", "lint", "tests"),
    Phase.POST_COMMIT: ("coverage", "build", "integration", "ai-review"),
}

#: Every gate that the orchestrator has a name for, in the order of their cost.
KNOWN_GATES = tuple(name for phase in Phase for name in _OF_PHASE[phase])

_OF_PROFILE = {
    GateProfile.STRICT: KNOWN_GATES,
    GateProfile.STANDARD: ("typecheck", "lint", "tests", "coverage"),
    GateProfile.MINIMAL: ("tests",),
    GateProfile.CUSTOM: (),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The gates to run, and those of the profile that this host does not have."""

    run: tuple[str, ...]
    skipped: tuple[str, ...]

    def of(self, phase: Phase) -> tuple[str, ...]:
        """Return the gates to run in a phase; a gate of no phase is run in the last."""
        early = _OF_PHASE[Phase.PRE_COMMIT]
        return tuple(name for name in self.run if (name in early) is (phase is Phase.PRE_COMMIT))


class Gates:
    """The gates of this host, by name."""

    def __init__(self, gates: Sequence[Gate]) -> None:
        self._gates: Mapping[str, Gate] = MappingProxyType({gate.name: gate for gate in gates})

    def __contains__(self, name: str) -> bool:
        return name in self._gates

    def plan(self, profile: GateProfile, gates: Sequence[str] | None) -> Plan:
        """Return the gates of the profile and those named beside it, each once, in `KNOWN_GATES`' order."""
        wanted = {*_OF_PROFILE[profile], *(gates or ())}
        ordered = (*(name for name in KNOWN_GATES if name in wanted), *sorted(wanted - set(KNOWN_GATES)))
        return Plan(
            run=tuple(name for name in ordered if name in self),
            skipped=tuple(name for name in ordered if name not in self),
        )

    def check(self, spec: TaskSpec) -> None:
        """Raise `FieldRefused` where the task names a gate that cannot be run here."""
        for name in spec.gates or ():
            if name not in self:
                known = (
                    f"{name!r} is not on this host" if name in KNOWN_GATES else f"there is no gate {name!r}"
                )
                raise FieldRefused("gates", f"{known} (it has: {', '.join(sorted(self._gates))})")

    async def run(
        self,
        names: Sequence[str],
        exhibit: Exhibit,
        *,
        deadline_s: float,
        judged: Callable[[Verdict], Awaitable[None]],
    ) -> tuple[Verdict, ...]:
        """Run the gates side by side, tell `judged` each verdict at once; return all in order."""
        verdicts: dict[str, Verdict] = {}
        failures: list[Exception] = []

        async def run(name: str) -> None:
            try:
                verdict = await self._gates[name].judge(exhibit, deadline_s=deadline_s)
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
