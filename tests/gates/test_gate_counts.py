"""How many tests ran on a base, as it is remembered for all who are compared with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.gates import mechanical as subject
from orchestrator.gates.definition import Definition, Kind
from orchestrator.gates.exhibit import Exhibit
from orchestrator.gates.trial import Trial
from sandbox.base import Backend, Exit, Limits
from sandbox.probe import default_user
from sandbox.trusted import ProcessBackend
from tests.gates.conftest import Changes, Judge, exhibit_of

CUT = (None, Exit(signal=9), Exit(code=137, oom_killed=True))


@pytest.mark.parametrize("cut", CUT, ids=str)
async def test_base_that_one_tasks_ceilings_cut_short_is_counted_anew_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: Exit | None
) -> None:
    ends = [(cut, b""), (Exit(code=0), b"ok 1 - a\nok 2 - b\n1..2\n")]

    async def run(trial: Trial, _exhibit: Exhibit, _opened: object, _limit_s: float) -> None:
        trial.exit, said = ends.pop(0)
        trial.tally.add("stdout", said)
        trial.tally.finish()

    monkeypatch.setattr(subject, "run_trial", run)
    exhibit = exhibit_of({}, {}, tmp_path, ProcessBackend(default_user()), Limits(), compared=True)
    definition = Definition(("sh", "test.sh"), ("sh", "test.sh"), kind=Kind.TESTS)
    counts = subject._Counts()  # noqa: SLF001 - what all gates of a name share
    await counts.count(exhibit, definition, 1.0)
    assert (await counts.count(exhibit, definition, 1.0)).number == 2
    # With other ceilings a suite may prove less; that is no measure for those who have more.
    ends.append((Exit(code=1), b"ok 1 - a\n1..1\n"))
    tight = dataclasses.replace(exhibit, limits=Limits(pids=4))
    assert (await counts.count(tight, definition, 1.0)).number != 2
    assert (await counts.count(exhibit, definition, 1.0)).number == 2


TESTS = "def test_a():\n    pass\n\n\ndef test_b():\n    pass\n"
#: Runs the tests by a runner that tells no number, and on the base does not even come to its end.
UNCOUNTED = {
    "orchestrator.toml": "[gates.tests]\ncommand = ['sh', 'run.sh']\n",
    "run.sh": "[ -e fixed ] || { echo no module; exit 1; }\n",
    "test_a.py": TESTS,
}


@pytest.mark.parametrize(
    ("change", "approved", "said"),
    [
        ({}, True, "how many ran is not known; how many ran on the base is not known: the tests failed with"),
        (
            {"test_a.py": None},
            False,
            "tests are lost: the change takes away 2 tests (test_a.py); bring them back",
        ),
        ({"test_a.py": None, "test_b.py": TESTS}, True, "the tests passed"),
    ],
)
async def test_tests_that_go_are_missed_also_where_the_base_cannot_be_counted(
    judge: Judge, process_backend: Backend, change: Changes, approved: bool, said: str
) -> None:
    verdict = await judge(UNCOUNTED, {"fixed": "", **change}, backend=process_backend, compared=True)
    assert (verdict.approved, verdict.tests_base) == (approved, None), verdict
    assert said in verdict.message
    assert "on the base is not known" in verdict.message
