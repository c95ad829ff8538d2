"""One run of a gate's command on a checkout, in a sandbox of its own, and what it left to be judged.

The invariant: whatever is run, it costs a bounded time and a bounded memory, and nothing of it is left when
`run_trial` returns. Caller: `gates.mechanical`; `gates.judgement` reads what came of it.
"""

from __future__ import annotations

import json
import re
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestrator.core.text import tail_of
from orchestrator.gates.definition import OURS, Definition, Kind
from orchestrator.gates.exhibit import Checkout, Exhibit
from orchestrator.gates.tally import Tally, told_by_go
from sandbox.base import CommandNotFound, Exit, Spec
from sandbox.relay import relay, seen_workspace

#: Characters of the output that a verdict keeps.
MAX_TAIL = 8 * 1024


@dataclass(slots=True)
class Trial:
    """One run of a gate's command, as far as it has come."""

    definition: Definition
    tally: Tally = field(default_factory=Tally)
    #: None where the deadline came first, or the command is missing.
    exit: Exit | None = None
    #: The program that could not be started.
    missing: str | None = None
    duration_ms: float = 0.0

    @property
    def report(self) -> dict[str, Any] | None:
        """What our launcher reported at the end, if it ran and came so far."""
        if self.definition.nonce is None:
            return None
        mark = f"\x1e{self.definition.nonce} ".encode()
        line = self.tally.tail.bytes().rpartition(mark)[2].partition(b"\n")[0]
        try:
            report = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return report if isinstance(report, dict) else None

    @property
    def output(self) -> str:
        """The end of the output, without our launcher's report."""
        raw = self.tally.tail.bytes()
        if self.definition.nonce is not None:
            raw = re.sub(rb"\n?\x1e" + self.definition.nonce.encode() + rb" [^\n]*\n?", b"", raw)
        if self.definition.shown[0] == "go":
            raw = told_by_go(raw)
        return tail_of(raw, MAX_TAIL)

    @property
    def ran(self) -> int | None:
        """How many tests ran, where that is known and the gate is one that counts."""
        if self.definition.kind is Kind.CHECK:
            return None
        if self.definition.nonce is None:
            return self.tally.ran
        return self.count("ran")

    @property
    def cut_short(self) -> bool:
        """Whether a part of the tests ended without telling what came of it."""
        return self.definition.counted and self.definition.nonce is None and self.tally.cut_short

    @property
    def proved(self) -> int | None:
        """How many tests ran that were not expected to fail, where that is known."""
        return None if self.ran is None else self.ran - min(self.ran, self.count("xfailed") or 0)

    @property
    def coverage(self) -> float | None:
        """The share of the code that the tests reached, in percent, where that is known."""
        if self.definition.kind is not Kind.COVERAGE:
            return None
        if self.definition.percent is None:
            told = (self.report or {}).get("coverage")
            return _percent(told) if isinstance(told, int | float) and not isinstance(told, bool) else None
        found = self.definition.percent.findall(self.tally.tail.bytes())
        return _percent(float(found[-1])) if found else None

    def count(self, key: str) -> int | None:
        """Return a number of the report; the process that wrote it was the candidate's too."""
        number = (self.report or {}).get(key)
        if isinstance(number, bool) or not isinstance(number, int):
            return None
        return min(max(0, number), 10**9)


async def run_trial(
    trial: Trial, exhibit: Exhibit, opened: AbstractAsyncContextManager[Checkout], limit_s: float
) -> None:
    """Run the definition on a checkout to its end or the limit, whichever is first."""
    definition, tally = trial.definition, trial.tally

    async def keep(stream: str, chunk: bytes) -> None:
        tally.add(stream, chunk)

    async with opened as checkout:
        where = seen_workspace(exhibit.backend, checkout.workspace)
        spec = Spec(
            label=exhibit.agent_id,
            command=definition.argv,
            workspace=checkout.workspace,
            env=_environment(definition, where),
            binds=checkout.binds,
            limits=exhibit.limits,
        )
        clock = exhibit.backend.clock
        began = clock.now()
        try:
            with clock.move_on_after(limit_s):
                async with exhibit.backend.open(spec) as sandbox:
                    trial.exit = await relay(
                        sandbox,
                        stdin=definition.stdin,
                        on_stdout=partial(keep, "stdout"),
                        on_stderr=partial(keep, "stderr"),
                    )
        except CommandNotFound:
            trial.missing = definition.argv[0]
        finally:
            trial.duration_ms = (clock.now() - began) * 1000
    tally.finish()


def _environment(definition: Definition, where: str) -> dict[str, str]:
    ours = {name: text.replace("{workspace}", where) for name, text in definition.env.items()}
    return {
        "CI": "true",
        "NO_COLOR": "1",
        "TERM": "dumb",
        # Compiled files that the candidate may have committed are neither read nor written.
        "PYTHONPYCACHEPREFIX": f"{where}/{OURS}/pycache",
        **ours,
    }


def _percent(number: float) -> float | None:
    return round(number, 2) if 0 <= number <= 100 else None
