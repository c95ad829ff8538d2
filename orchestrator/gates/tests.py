"""The gate `tests`: run the project's own tests on the candidate, in a new sandbox, as the base defines them.

The invariant: an approval means that a run which the candidate did not define ended by itself with success,
and that no recognised count of its tests was zero. Everything else that the candidate can bring about is a
rejection with the reason; what it cannot is an error of ours and raised. Caller: `gates.base`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestrator.core.model import Verdict
from orchestrator.core.text import tail_of
from orchestrator.gates.definition import OURS, Definition, Unrunnable
from orchestrator.gates.exhibit import Exhibit
from orchestrator.gates.local import find_tests
from orchestrator.gates.tally import Tally, told_by_go
from sandbox.base import CommandNotFound, Exit, Spec
from sandbox.relay import relay, seen_workspace

#: Characters of the output that a verdict keeps.
MAX_TAIL = 8 * 1024
_REFUSED = 125
#: How pytest says that it found no test.
_NO_TESTS = 5
#: How shells, make, our launcher and Python say that a tool is not there.
_MISSING = re.compile(
    r"(?:: |^)([\w./+-]{1,100}): (?:command )?not found$"
    r"|^make(?:\[\d+\])?: ([\w./+-]{1,100}): No such file or directory$"
    r"|^orchestrator: (\w{1,40}) is not installed"
    r"|: No module named '?(pytest|tox|nox|coverage)'?$",
    re.MULTILINE,
)
_COMPLAINT = re.compile(r"^orchestrator: (.{1,300})$", re.MULTILINE)


@dataclass(slots=True)
class Trial:
    """One run of the tests, as far as it has come."""

    definition: Definition
    tally: Tally = field(default_factory=Tally)
    #: None where the deadline came first.
    exit: Exit | None = None
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
        """How many tests ran, where that is known."""
        if self.definition.nonce is None:
            return self.tally.ran
        return _count(self.report, "ran")


class TestsGate:
    """See `gates.exhibit.Gate`."""

    #: Not a test class, whatever its name says to pytest.
    __test__ = False
    name = "tests"

    async def judge(self, exhibit: Exhibit, *, deadline_s: float) -> Verdict:
        """Run the tests and say what came of it."""
        try:
            definition = await find_tests(await exhibit.names_base(), exhibit.read_base)
        except Unrunnable as reason:
            return Verdict(
                gate=self.name,
                approved=False,
                message=str(reason),
                commit=exhibit.commit,
                round=exhibit.round,
            )
        await exhibit.output("system", f"gate {self.name}: {' '.join(definition.shown)}")
        limit_s = min(deadline_s, definition.timeout_s or deadline_s)
        trial = Trial(definition)
        complaint = await _try(trial, exhibit, limit_s) or _fault(trial, limit_s)
        return Verdict(
            gate=self.name,
            approved=complaint is None,
            message=complaint or _praise(trial),
            commit=exhibit.commit,
            round=exhibit.round,
            command=definition.shown,
            exit_code=trial.exit.code if trial.exit else None,
            duration_ms=round(trial.duration_ms, 1),
            tests=trial.ran,
            output_tail=trial.output,
        )


async def _try(trial: Trial, exhibit: Exhibit, limit_s: float) -> str | None:
    """Run the tests to their end or the limit; return what kept them from being run at all."""
    definition, tally = trial.definition, trial.tally

    async def keep(stream: str, chunk: bytes) -> None:
        tally.add(stream, chunk)

    async with exhibit.open_checkout() as checkout:
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
            return _tool_missing(definition.argv[0])
        finally:
            trial.duration_ms = (clock.now() - began) * 1000
    tally.finish()
    return None


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


def _fault(trial: Trial, limit_s: float) -> str | None:
    """Return why the run is a rejection, or None where it is none."""
    if trial.exit is None:
        return f"the tests did not end within {limit_s:g} s"
    return _refusal(trial, trial.exit) or _violent_end(trial.exit) or _failure(trial, trial.exit)


def _violent_end(ended: Exit) -> str | None:
    if ended.oom_killed or ended.excess:
        return f"the tests were {ended}"
    return f"the tests were ended by signal {ended.signal}" if ended.signal is not None else None


def _failure(trial: Trial, ended: Exit) -> str | None:
    """Return what the run's own end and summary say against it."""
    report, ran = trial.report or {}, trial.ran
    reported = trial.definition.nonce is not None
    complaint = None
    if reported and (not report or "broken" in report):
        complaint = f"the tests ended before their summary ({ended})"
    elif failed := max(_count(report, "failed") or 0, len(report.get("failures", ()))):
        what = f"{failed} of {ran} tests failed" if ran else f"the tests could not be loaded: {failed} errors"
        complaint = f"{what} ({ended})"
    elif ran == 0 and ended.code in {0, _NO_TESTS}:
        complaint = "no test ran: a suite without tests proves nothing"
    elif not ended.ok:
        complaint = f"the tests failed with {ended}"
    elif ran is None and trial.definition.counted:
        complaint = "the tests told no summary, so none may have run"
    return complaint


def _refusal(trial: Trial, ended: Exit) -> str | None:
    """Return why the run did not begin, where our own prelude or launcher, or the shell, said so."""
    if not ended.ok and trial.ran in {None, 0} and (found := _MISSING.search(trial.output)):
        return _tool_missing(next(filter(None, found.groups())))
    if ended.code == _REFUSED and (found := _COMPLAINT.search(trial.output)):
        return found[1]
    return None


def _tool_missing(tool: str) -> str:
    return (
        f"{tool} is missing in the sandbox: install it under /usr, or name its directory in "
        "SANDBOX_READ_ONLY and SANDBOX_PATH"
    )


def _praise(trial: Trial) -> str:
    if trial.ran is None:
        return "the tests passed; how many ran is not known"
    words = ("skipped", "deselected")
    more = [f"{number} {word}" for word in words if (number := _count(trial.report, word))]
    beside = f" ({', '.join(more)})" if more else ""
    return f"{trial.ran} test{'' if trial.ran == 1 else 's'} passed{beside}"


def _count(report: dict[str, Any] | None, key: str) -> int | None:
    """Return a number of the report; the process that wrote it was the candidate's too."""
    number = (report or {}).get(key)
    if isinstance(number, bool) or not isinstance(number, int):
        return None
    return min(max(0, number), 10**9)
