"""Which gates a task gets, what is refused at once, and how they run side by side."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import trio

from orchestrator.core.model import Verdict
from orchestrator.core.spec import GateProfile, TaskSpec
from orchestrator.errors import FieldRefused
from orchestrator.gates.base import GATES, KNOWN_GATES, check_gates, plan_gates, run_gates
from sandbox.base import Backend, Limits
from tests.gates.conftest import exhibit_of
from tests.kit.until import until


def spec_of(**fields: object) -> TaskSpec:
    return TaskSpec.model_validate(
        {"taskId": "T", "context": {"repository": "https://example.org/r"}, **fields}
    )


@pytest.mark.parametrize(
    ("profile", "gates", "run", "skipped"),
    [
        (GateProfile.MINIMAL, None, ("tests",), ()),
        (GateProfile.STANDARD, None, ("tests",), ("typecheck", "lint", "coverage")),
        (GateProfile.STRICT, None, ("tests",), tuple(name for name in KNOWN_GATES if name != "tests")),
        (GateProfile.CUSTOM, (), (), ()),
        (GateProfile.CUSTOM, ("tests",), ("tests",), ()),
        (GateProfile.MINIMAL, ("tests", "tests"), ("tests",), ()),
    ],
)
def test_plan_follows_the_profile(
    profile: GateProfile, gates: tuple[str, ...] | None, run: tuple[str, ...], skipped: tuple[str, ...]
) -> None:
    plan = plan_gates(profile, gates)
    assert (plan.run, plan.skipped) == (run, skipped)


@pytest.mark.parametrize(
    ("gate", "words"), [("lint", "'lint' is not in this version"), ("magic", "there is no gate 'magic'")]
)
def test_named_gate_that_cannot_run_is_refused(gate: str, words: str) -> None:
    with pytest.raises(FieldRefused, match=words) as refused:
        check_gates(spec_of(gates=["tests", gate]))
    assert (refused.value.field, refused.value.status) == ("gates", 422)


def test_gates_that_there_are_are_accepted() -> None:
    check_gates(spec_of(gates=["tests"]))
    check_gates(spec_of())
    assert set(GATES) <= set(KNOWN_GATES)
    assert all(GATES[name].name == name for name in GATES)


async def test_every_verdict_is_told_once(reachable_path: Path, process_backend: Backend) -> None:
    told: list[Verdict] = []

    async def judged(verdict: Verdict) -> None:
        told.append(verdict)

    base = {"orchestrator.toml": '[gates.tests]\ncommand = "true"\n'}
    exhibit = exhibit_of(base, base, reachable_path / "c", process_backend, Limits())
    verdicts = await run_gates(("tests", "tests"), exhibit, deadline_s=30, judged=judged)
    assert [verdict.approved for verdict in verdicts] == [True]
    assert tuple(told) == verdicts
    assert await run_gates((), exhibit, deadline_s=30, judged=judged) == ()


async def test_cancelled_gate_leaves_no_process_and_no_checkout(
    reachable_path: Path, process_backend: Backend
) -> None:
    async def judged(verdict: Verdict) -> None:
        raise AssertionError(verdict)

    base = {"orchestrator.toml": '[gates.tests]\ncommand = "setsid sleep 1000 & echo > up; sleep 1000"\n'}
    exhibit = exhibit_of(base, base, reachable_path / "c", process_backend, Limits())
    async with trio.open_nursery() as gates:
        gates.start_soon(partial(run_gates, ("tests",), exhibit, deadline_s=30, judged=judged))
        await trio.to_thread.run_sync(until, (reachable_path / "c/lower/up").exists, "the tests run")
        gates.cancel_scope.cancel()
    assert os.listdir(reachable_path) == []  # noqa: PTH208


async def test_error_that_is_not_the_candidates_is_raised_as_it_is(
    reachable_path: Path, process_backend: Backend
) -> None:
    async def judged(verdict: Verdict) -> None:
        raise FieldRefused("x", verdict.gate)

    exhibit = exhibit_of({}, {}, reachable_path / "c", process_backend, Limits())
    with pytest.raises(FieldRefused, match="x: tests"):
        await run_gates(("tests",), exhibit, deadline_s=30, judged=judged)
