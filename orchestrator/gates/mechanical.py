"""A gate without opinion: run the project's own tool on the candidate, as the base defines it.

The invariant: what is run is decided by the base alone; whatever the candidate can bring about is a rejection
with the reason, and what it cannot is an error of ours and raised. A suite of tests that passes is compared
with what ran on the base, which is run once for each base. Caller: `gates.base`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import trio

from orchestrator.core.losses import PATHS
from orchestrator.core.model import Verdict
from orchestrator.core.text import escaped
from orchestrator.errors import RepositoryError
from orchestrator.gates.additions import MAX_DIFF, TooLarge, read_additions, silenced
from orchestrator.gates.definition import Base, Definition, Kind, Unrunnable, remembered
from orchestrator.gates.exhibit import Checkout, Exhibit
from orchestrator.gates.judgement import Counted, Fault, count_of, find_fault, find_loss, find_loss_in, praise
from orchestrator.gates.local import find
from orchestrator.gates.nested import Displaced, led_below
from orchestrator.gates.protected import protected
from orchestrator.gates.settings import are_same
from orchestrator.gates.trial import Trial, run_trial
from sandbox.base import Limits

#: Bytes of a change that are looked through for tests that go.
MAX_LOSSES = 4 * 1024 * 1024
#: Folders in which files are looked for that keep a tool from others.
MAX_HIDING = 1000
#: Bases whose tests are remembered by their number.
MAX_BASES = 256


class MechanicalGate:
    """See `gates.exhibit.Gate`; its name says what is run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._counts = _Counts()

    async def judge(self, exhibit: Exhibit, *, deadline_s: float) -> Verdict:
        """Run the gate and say what came of it."""
        verdict = Verdict(
            gate=self.name, approved=False, message="", commit=exhibit.commit, round=exhibit.round
        )
        base = remembered(await base_of(exhibit))
        try:
            definition = await self.find(base)
        except Unrunnable as reason:
            return verdict.model_copy(update={"message": str(reason), "lasting": True})
        definition = await _settle(exhibit, definition)
        try:
            definition = await led_below(base, exhibit, definition)
        except Displaced as reason:
            return verdict.model_copy(update={"message": str(reason)})
        edits = protected(exhibit.changed, definition.sources)
        own = [path for path in edits if path in definition.sources]
        verdict = verdict.model_copy(update={"command": definition.shown, "protected": tuple(own) or None})
        try:
            definition = await self._look_through(exhibit, definition)
        except (Silenced, TooLarge) as reason:
            return verdict.model_copy(update={"message": str(reason)})
        await exhibit.output("system", f"gate {self.name}: {' '.join(definition.shown)}")
        limit_s = min(deadline_s, definition.timeout_s or deadline_s)
        trial = Trial(definition)
        await run_trial(trial, exhibit, exhibit.open_checkout(), limit_s)
        fault = find_fault(self.name, trial, limit_s)
        counted = None
        if fault is None and definition.kind is Kind.TESTS and exhibit.open_base is not None:
            counted = await self._counts.count(exhibit, definition, limit_s)
            if counted.number is not None:
                fault = find_loss(trial, counted.number)
            else:
                fault = find_loss_in(await exhibit.read_diff(MAX_LOSSES, *PATHS), trial, counted.why)
        return verdict.model_copy(update=_evidence(self.name, trial, fault, counted))

    async def find(self, base: Base) -> Definition:
        """Return how the gate is run; raises `Unrunnable` where the base does not say it."""
        return await find(self.name, base)

    async def _look_through(self, exhibit: Exhibit, definition: Definition) -> Definition:
        """Return the definition, told what the candidate adds; raises `Silenced` and `TooLarge`."""
        if definition.hides is not None:
            await _refuse_hiding(exhibit, definition.hides)
        paths = dict.fromkeys(path for silence in definition.silences for path in silence.paths)
        if definition.amend is not None:
            paths |= dict.fromkeys(definition.amended_by)
        if not paths:
            return definition
        added = read_additions(await exhibit.read_diff(MAX_DIFF, *paths, text=True))
        if (trouble := silenced(self.name, definition, added)) is not None:
            raise Silenced(trouble)
        if definition.amend is None:
            return definition
        return replace(definition, stdin=definition.amend(definition.stdin, added))


async def _settle(exhibit: Exhibit, definition: Definition) -> Definition:
    """Return the definition that leads the tools as the base does, whatever the candidate says to them."""
    if definition.settled is None:
        return definition
    for path, content in definition.shared.items():
        if not any(other == path or other.startswith(f"{path}/") for other in exhibit.changed):
            continue
        try:
            same = are_same(path, content, await exhibit.read_candidate(path))
        except RepositoryError:
            same = False
        if not same:
            return definition.settled
    return definition


class Silenced(Exception):
    """The candidate silences the gate for whole files."""


async def _refuse_hiding(exhibit: Exhibit, hides: Callable[[str], tuple[str, ...]]) -> None:
    """Raise `Silenced` where a file that the candidate adds keeps its tool from another one."""
    known: dict[tuple[bool, str], frozenset[str]] = {}

    async def is_there(path: str, *, before: bool) -> bool:
        folder, _, name = path.rpartition("/")
        if (place := (before, folder)) not in known:
            names = exhibit.names_base if before else exhibit.names_candidate
            known[place] = frozenset(await names(folder))
        return name in known[place]

    for path in exhibit.changed:
        for hidden in hides(path):
            if len(known) > MAX_HIDING:
                raise Silenced(f"the change has files like {escaped(path)[:300]} in too many folders")
            there = await is_there(hidden, before=False) and await is_there(path, before=False)
            if there and not await is_there(path, before=True):
                shown = f"{escaped(path)[:300]}, by which {escaped(hidden)[:300]} is not looked at"
                raise Silenced(f"the candidate adds {shown}: take it out")


class _Counts:
    """How many tests proved something on each base: found out once, however many ask at the same time.

    Once for each set of ceilings: with few processes, say, a suite may prove less, and that is no measure for
    those who have more.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, Limits], Counted] = OrderedDict()
        self._locks: dict[tuple[str, Limits], trio.Lock] = {}

    async def count(self, exhibit: Exhibit, definition: Definition, limit_s: float) -> Counted:
        """Return how many ran, or why that is not known."""
        base = (exhibit.base, exhibit.limits)
        lock = self._locks.setdefault(base, trio.Lock())
        try:
            async with lock:
                found = self._known.get(base)
                if found is None and exhibit.open_base is not None:
                    found = await self._run(exhibit, definition, exhibit.open_base(), limit_s)
        finally:
            if not lock.statistics().tasks_waiting:
                self._locks.pop(base, None)
        while len(self._known) > MAX_BASES:
            self._known.popitem(last=False)
        return found or Counted(None, "there is no base to run them on")

    async def _run(
        self,
        exhibit: Exhibit,
        definition: Definition,
        opened: AbstractAsyncContextManager[Checkout],
        limit_s: float,
    ) -> Counted:
        await exhibit.output("system", f"gate: {' '.join(definition.shown)} on the base")
        trial = Trial(definition)
        await run_trial(trial, exhibit, opened, limit_s)
        found, ended = count_of("tests", trial, limit_s), trial.exit
        # What the ceilings of one task cut short says nothing to the others.
        if ended is not None and ended.code is not None and not ended.oom_killed:
            self._known[exhibit.base, exhibit.limits] = found
        return found


def _evidence(gate: str, trial: Trial, fault: Fault | None, base: Counted | None) -> dict[str, object]:
    return {
        "approved": fault is None,
        "message": praise(gate, trial, base) if fault is None else fault.message,
        "lasting": (fault is not None and fault.lasting) or None,
        "exit_code": trial.exit.code if trial.exit else None,
        "duration_ms": round(trial.duration_ms, 1),
        "tests": trial.ran,
        "tests_base": base.number if base is not None else None,
        "coverage": trial.coverage,
        "output_tail": trial.output,
    }


async def base_of(exhibit: Exhibit) -> Base:
    """Return the base commit of an exhibit."""
    return Base(await exhibit.names_base(""), exhibit.read_base, exhibit.names_base)
