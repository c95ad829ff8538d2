"""Which gates a host has, which of them a task gets, and their run, side by side.

The invariant: a gate that a task names is run, or the task is refused when it is submitted or, where that
hangs on its base, before its first turn; a gate that only its profile names and that this host or the base
lacks is reported as skipped, never as passed. Made by `gates.registry`; callers: the API (`Gates.check`) and
`supervise.judging` (the rest).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import trio

from orchestrator.core.model import Verdict
from orchestrator.core.spec import GateProfile, TaskSpec
from orchestrator.errors import FieldRefused
from orchestrator.gates.definition import Base, Undefined, Unrunnable, remembered
from orchestrator.gates.exhibit import Checkout, Exhibit, Gate, Output
from orchestrator.gates.mechanical import MechanicalGate

__all__ = [
    "KNOWN_GATES",
    "Base",
    "Checkout",
    "Exhibit",
    "Gate",
    "Gates",
    "Omitted",
    "Output",
    "Phase",
    "Plan",
]

_NOT_HERE = "this host does not have this gate of the profile"
#: The gates that run nothing of the project's.
AI_REVIEW, AI_SHARE = "ai-review", "ai-share"


class Phase(StrEnum):
    """When a gate is run: the fast ones first; the others see only what has passed those."""

    PRE_COMMIT = "pre-commit"
    POST_COMMIT = "post-commit"


_OF_PHASE = {
    Phase.PRE_COMMIT: ("typecheck", "lint", "tests"),
    Phase.POST_COMMIT: ("coverage", "build", "integration", AI_REVIEW, AI_SHARE),
}

#: Every gate that the orchestrator has a name for, in the order of their cost.
KNOWN_GATES = tuple(name for phase in Phase for name in _OF_PHASE[phase])

_OF_PROFILE = {
    GateProfile.STRICT: tuple(name for name in KNOWN_GATES if name != AI_SHARE),
    GateProfile.STANDARD: ("typecheck", "lint", "tests", "coverage"),
    GateProfile.MINIMAL: ("tests",),
    GateProfile.CUSTOM: (),
}


@dataclass(frozen=True, slots=True)
class Omitted:
    """A gate that is not run, and why."""

    gate: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The gates to run, those of the profile that are left out, and those that keep the task from any end."""

    run: tuple[str, ...]
    skipped: tuple[Omitted, ...] = ()
    #: Gates that have to be run and cannot: no candidate could ever be approved.
    refused: tuple[Omitted, ...] = ()
    #: Paths of the base that say how the gates are run.
    sources: tuple[str, ...] = ()

    def of(self, phase: Phase) -> tuple[str, ...]:
        """Return the gates to run in a phase; a gate of no phase is run in the last."""
        early = _OF_PHASE[Phase.PRE_COMMIT]
        return tuple(name for name in self.run if (name in early) is (phase is Phase.PRE_COMMIT))


class Gates:
    """The gates of this host, by name."""

    def __init__(self, gates: Sequence[Gate], *, always: Collection[str] = ()) -> None:
        """Take the gates, and the names of those that every task gets but one that names all of its own."""
        self._always = frozenset(always)
        self._gates: Mapping[str, Gate] = MappingProxyType({gate.name: gate for gate in gates})

    @property
    def names(self) -> tuple[str, ...]:
        """The gates that this host has whatever the base says, in the order of the alphabet."""
        return tuple(sorted(self._gates))

    def named(self, name: str) -> Gate | None:
        """Return the gate of that name, where this host has it whatever the base says."""
        return self._gates.get(name)

    def plan(self, profile: GateProfile, gates: Sequence[str] | None) -> Plan:
        """Return the gates of the profile and those named beside it, each once, in `KNOWN_GATES`' order.

        What the base says about them is not known yet.
        """
        wanted = {*_OF_PROFILE[profile], *(gates or ())}
        if profile is not GateProfile.CUSTOM:
            wanted |= self._always
        ordered = (*(name for name in KNOWN_GATES if name in wanted), *sorted(wanted - set(KNOWN_GATES)))
        return Plan(
            run=tuple(name for name in ordered if self._has(name)),
            skipped=tuple(Omitted(name, _NOT_HERE) for name in ordered if not self._has(name)),
        )

    async def plan_on(self, profile: GateProfile, gates: Sequence[str] | None, base: Base) -> Plan:
        """Return the plan for one base commit, which defines some gates and others not.

        A gate that it does not define is left out where only the profile asks for it, except the tests: with
        nothing proven at all, nothing is approved.
        """
        plan, base = self.plan(profile, gates), remembered(base)
        run: list[str] = []
        skipped, refused = list(plan.skipped), list(plan.refused)
        sources: dict[str, None] = {}
        for name in plan.run:
            gate = self._find(name)
            try:
                if isinstance(gate, MechanicalGate):
                    sources |= dict.fromkeys((await gate.find(base)).sources)
                run.append(name)
            except Undefined as reason:
                must = name in (gates or ()) or name == "tests"
                (refused if must else skipped).append(Omitted(name, str(reason)))
            except Unrunnable as reason:
                refused.append(Omitted(name, str(reason)))
        return Plan(tuple(run), tuple(skipped), tuple(refused), tuple(sources))

    def check(self, spec: TaskSpec) -> None:
        """Raise `FieldRefused` where the task names a gate that this host lacks.

        A name that is none of ours may be the repository's own: that is seen once its base is known.
        """
        for name in spec.gates or ():
            if not self._has(name):
                raise FieldRefused("gates", f"{name!r} is not on this host (it has: {', '.join(self.names)})")

    def _has(self, name: str) -> bool:
        return name in self._gates or name not in KNOWN_GATES

    def _find(self, name: str) -> Gate:
        return self._gates.get(name) or MechanicalGate(name)

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
                verdict = await self._find(name).judge(exhibit, deadline_s=deadline_s)
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
