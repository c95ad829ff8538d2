"""A gate without opinion: run the project's own tool on the candidate, as the base defines it.

The invariant: what is run is decided by the base alone; whatever the candidate can bring about is a rejection
with the reason, and what it cannot is an error of ours and raised. Caller: `gates.base`.
"""

from __future__ import annotations

from orchestrator.core.model import Verdict
from orchestrator.gates.definition import Base, Definition, Unrunnable
from orchestrator.gates.exhibit import Exhibit
from orchestrator.gates.judgement import Fault, find_fault, praise
from orchestrator.gates.local import find
from orchestrator.gates.trial import Trial, run_trial


class MechanicalGate:
    """See `gates.exhibit.Gate`; its name says what is run."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def judge(self, exhibit: Exhibit, *, deadline_s: float) -> Verdict:
        """Run the gate and say what came of it."""
        try:
            definition = await self.find(await base_of(exhibit))
        except Unrunnable as reason:
            return self._rejected(exhibit, Fault(str(reason), lasting=True))
        await exhibit.output("system", f"gate {self.name}: {' '.join(definition.shown)}")
        limit_s = min(deadline_s, definition.timeout_s or deadline_s)
        trial = Trial(definition)
        await run_trial(trial, exhibit, exhibit.open_checkout(), limit_s)
        fault = find_fault(self.name, trial, limit_s)
        return Verdict(
            gate=self.name,
            approved=fault is None,
            message=praise(self.name, trial) if fault is None else fault.message,
            commit=exhibit.commit,
            round=exhibit.round,
            command=definition.shown,
            exit_code=trial.exit.code if trial.exit else None,
            duration_ms=round(trial.duration_ms, 1),
            tests=trial.ran,
            coverage=trial.coverage,
            lasting=fault is not None and fault.lasting,
            output_tail=trial.output,
        )

    async def find(self, base: Base) -> Definition:
        """Return how the gate is run; raises `Unrunnable` where the base does not say it."""
        return await find(self.name, base)

    def _rejected(self, exhibit: Exhibit, fault: Fault) -> Verdict:
        return Verdict(
            gate=self.name,
            approved=False,
            message=fault.message,
            commit=exhibit.commit,
            round=exhibit.round,
            lasting=fault.lasting,
        )


async def base_of(exhibit: Exhibit) -> Base:
    """Return the base commit of an exhibit."""
    return Base(await exhibit.names_base(""), exhibit.read_base, exhibit.names_base)
