"""What a gate's run says about the candidate: the one place where a run becomes an approval or a rejection.

The invariant: an approval means that a run which the candidate did not define ended by itself with success,
and showed what its kind has to show: that tests ran, and what they reached. Pure. Caller: `gates.mechanical`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.core.losses import lost_tests
from orchestrator.core.patch import PatchMalformed, parse_patch
from orchestrator.gates.definition import Kind
from orchestrator.gates.trial import Trial
from sandbox.base import Exit

_REFUSED = 125
#: How pytest says that it found no test.
_NO_TESTS = 5
#: How shells, make, our launchers and Python say that a tool is not there.
_MISSING = re.compile(
    r"(?:: |^)([\w./+-]{1,100}): (?:command )?not found$"
    r"|^make(?:\[\d+\])?: ([\w./+-]{1,100}): No such file or directory$"
    r"|^orchestrator: ([\w.-]{1,60}) is not installed"
    r"|no such (?:sub)?command: [`']([\w-]{1,40})[`']"
    r"|'(cargo-[\w-]{1,40})' is not installed"
    r"|Cannot find dependency '([@\w/-]{1,80})'"
    r"|: No module named '?(pytest|tox|nox|coverage|mypy|ruff|flake8|pyright)'?$",
    re.MULTILINE,
)
_WORD = re.compile(r"[^\w.-]+")
#: How the tools of the languages say that a package is not there, and that there is no network to get it by.
_ABSENT = re.compile(
    r"no matching package named `([\w-]{1,80})` found"
    r"|: cannot find module providing package (\S{1,200}):"
    r"|^(?:go: )?([\w./@-]{1,200}): module lookup disabled by GOPROXY=off"
    r"|the artifact ([\w.:-]{1,200}) has not been downloaded",
    re.MULTILINE,
)
#: The mark of a change that is not read whole.
_CUT = b"\n[cut here: "
_NOTHING = "no test ran: a suite without tests proves nothing"
#: What the launcher of Node reports where the runner wrote no results; some say that they found no test.
NO_RESULTS = "no results"
_COMPLAINT = re.compile(r"^orchestrator: (.{1,300})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a run is a rejection."""

    message: str
    #: Whether nothing that the agent could do would change it.
    lasting: bool = False


def find_fault(gate: str, trial: Trial, limit_s: float) -> Fault | None:
    """Return why the run of a gate is a rejection, or None where it is none."""
    what = "the tests" if trial.definition.kind is not Kind.CHECK else gate
    if trial.missing is not None:
        return _tool_missing(trial, trial.missing)
    if trial.exit is None:
        return Fault(f"{what} did not end within {limit_s:g} s")
    if (fault := _refusal(trial, trial.exit)) is not None:
        return fault
    message = _violent_end(what, trial.exit)
    if message is None:
        message = (
            _check(what, trial.exit)
            if trial.definition.kind is Kind.CHECK
            else _tests(trial, trial.exit) or _coverage(trial)
        )
    return Fault(message) if message else None


@dataclass(frozen=True, slots=True)
class Counted:
    """How many tests ran on a base, or why that is not known."""

    number: int | None
    why: str = ""


def count_of(gate: str, trial: Trial, limit_s: float) -> Counted:
    """Return what a run on the base tells of its tests."""
    if trial.proved is not None:
        return Counted(trial.proved)
    fault = find_fault(gate, trial, limit_s)
    return Counted(None, fault.message if fault is not None else "they told no number")


def find_loss(trial: Trial, ran_on_base: int) -> Fault | None:
    """Return why a run that passed is a rejection beside that of the base, or None where it is none."""
    if not ran_on_base:
        return None
    if trial.proved is None:
        return Fault(f"the tests told how many ran on the base ({ran_on_base}), and do not any more")
    if trial.proved < ran_on_base:
        words = {"skipped": "skipped", "deselected": "deselected", "xfailed": "expected to fail"}
        more = [f"{number} {word}" for key, word in words.items() if (number := trial.count(key))]
        beside = f" ({', '.join(more)})" if more else ""
        return Fault(
            f"tests are lost: {ran_on_base} ran on the base, and {trial.proved} here{beside}; bring them "
            "back, or others in their place"
        )
    return None


def find_loss_in(patch: bytes, trial: Trial, why: str) -> Fault | None:
    """Return why a run that passed is a rejection where the base's tests could not be counted, or None.

    `patch` is the whole change of the files that could hold tests, `why` why there is no number.
    """
    unknown = f"how many ran on the base is not known: {why}"
    if trial.proved == 0:
        return Fault(f"no test proved anything; {unknown}")
    if _CUT in patch[-100:]:
        return Fault(f"the change is too large to be looked through for lost tests; {unknown}")
    try:
        lost = lost_tests(parse_patch(patch))
    except PatchMalformed as error:
        return Fault(f"the change cannot be looked through for lost tests: {error}; {unknown}")
    if lost is None:
        return None
    return Fault(
        f"tests are lost: the change takes away {lost}; bring them back, or others in their place; {unknown}"
    )


def praise(gate: str, trial: Trial, base: Counted | None = None) -> str:
    """Return what an approved run showed, and where it could not be compared with the base."""
    shown = _shown(gate, trial)
    if base is None or base.number is not None:
        return shown
    return f"{shown}; how many ran on the base is not known: {base.why}"


def _shown(gate: str, trial: Trial) -> str:
    if trial.definition.kind is Kind.CHECK:
        return f"{gate} passed"
    if trial.ran is None:
        passed = "the tests passed; how many ran is not known"
    else:
        more = [f"{number} {word}" for word in ("skipped", "deselected") if (number := trial.count(word))]
        beside = f" ({', '.join(more)})" if more else ""
        passed = f"{trial.ran} test{'' if trial.ran == 1 else 's'} passed{beside}"
    return passed if trial.coverage is None else f"{passed}, coverage {trial.coverage:g} %"


def _violent_end(what: str, ended: Exit) -> str | None:
    verb = "were" if what.startswith("the ") else "was"
    if ended.oom_killed or ended.excess:
        return f"{what} {verb} {ended}"
    return f"{what} {verb} ended by signal {ended.signal}" if ended.signal is not None else None


def _check(what: str, ended: Exit) -> str | None:
    return None if ended.ok else f"{what} failed with {ended}"


def _tests(trial: Trial, ended: Exit) -> str | None:
    """Return what the run's own end and summary say against it."""
    report, ran = trial.report or {}, trial.ran
    reported = trial.definition.nonce is not None
    complaint = None
    if report.get("broken") == NO_RESULTS and trial.tally.ran == 0:
        complaint = _NOTHING
    elif reported and (not report or "broken" in report):
        complaint = f"the tests ended before their summary ({ended})"
    elif unsound := report.get("unsound"):
        complaint = f"the tests cannot be believed: {str(unsound)[:200]}"
    elif failed := max(trial.count("failed") or 0, len(report.get("failures", ()))):
        what = f"{failed} of {ran} tests failed" if ran else f"the tests could not be loaded: {failed} errors"
        complaint = f"{what} ({ended})"
    elif ran == 0 and ended.code in {0, _NO_TESTS}:
        complaint = _NOTHING
    elif ended.ok and trial.cut_short:
        complaint = f"the tests ended before their summary ({ended})"
    elif not ended.ok:
        complaint = f"the tests failed with {ended}"
    elif ran is None and trial.definition.counted:
        complaint = "the tests told no summary, so none may have run"
    return complaint


def _coverage(trial: Trial) -> str | None:
    minimum, coverage = trial.definition.minimum, trial.coverage
    if minimum is None:
        return None
    if coverage is None:
        return "the coverage is not known: the tests told none"
    if coverage >= minimum:
        return None
    claimed = (trial.report or {}).get("claimed")
    if isinstance(claimed, int | float) and claimed >= minimum:
        return (
            f"coverage is {coverage:g} %, below {minimum:g} %: it would be {claimed:.4g} % by the exclusions "
            "that the candidate adds, which do not count"
        )
    return f"coverage is {coverage:g} %, below {minimum:g} %"


def _refusal(trial: Trial, ended: Exit) -> Fault | None:
    """Return why the run did not begin, where our own prelude or launcher, or the shell, said so."""
    if not ended.ok and trial.ran in {None, 0} and (found := _MISSING.search(trial.output)):
        return _tool_missing(trial, next(filter(None, found.groups())))
    if not ended.ok and (found := _ABSENT.search(trial.output)):
        return _package_missing(next(filter(None, found.groups())))
    if ended.code == _REFUSED and (found := _COMPLAINT.search(trial.output)):
        return Fault(found[1])
    return None


def _tool_missing(trial: Trial, tool: str) -> Fault:
    return Fault(
        f"{tool} is missing in the sandbox: add it to [setup] of the base's orchestrator.toml, install it "
        "under /usr, or name its directory in SANDBOX_READ_ONLY and SANDBOX_PATH",
        # What the base's own command names is not there; a tool that a script calls may be the agent's idea.
        lasting=(trial.report or {}).get("missing") == tool
        or any(tool in _WORD.split(word) for word in trial.definition.argv),
    )


def _package_missing(package: str) -> Fault:
    return Fault(
        f"{package} is missing in the sandbox, which has no network: let [setup] of orchestrator.toml "
        "install what the project depends on"
    )
