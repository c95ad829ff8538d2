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
from orchestrator.gates.base import KNOWN_GATES, Gates, Phase, Plan
from orchestrator.gates.mechanical import MechanicalGate
from orchestrator.gates.registry import MECHANICAL, make_gates
from sandbox.base import Backend, Limits
from tests.gates.conftest import base_with, exhibit_of
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
    plan = Gates((MechanicalGate("tests"),)).plan(profile, gates)
    assert (plan.run, tuple(gate.gate for gate in plan.skipped)) == (run, skipped)


def test_named_gate_that_this_host_lacks_is_refused() -> None:
    with pytest.raises(FieldRefused, match="'lint' is not on this host") as refused:
        Gates((MechanicalGate("tests"),)).check(spec_of(gates=["tests", "lint"]))
    assert (refused.value.field, refused.value.status) == ("gates", 422)


def test_name_of_no_gate_of_ours_may_be_the_repositorys_own() -> None:
    make_gates().check(spec_of(gates=["smoke"]))
    assert make_gates().plan(GateProfile.CUSTOM, ("smoke", "tests")).run == ("tests", "smoke")


SMOKE = {"orchestrator.toml": '[gates.smoke]\ncommand = "true"\n'}
TESTS = {"Makefile": "test:\n\ttrue\n"}


@pytest.mark.parametrize(
    ("base", "profile", "gates", "decided"),
    [
        ({**SMOKE, **TESTS}, GateProfile.MINIMAL, ("smoke",), (("tests", "smoke"), (), ())),
        (TESTS, GateProfile.CUSTOM, ("smoke", "tests"), (("tests",), (), ("smoke",))),
        (TESTS, GateProfile.STANDARD, None, (("tests",), ("typecheck", "lint", "coverage"), ())),
        (TESTS, GateProfile.STANDARD, ("lint",), (("tests",), ("typecheck", "coverage"), ("lint",))),
        ({}, GateProfile.MINIMAL, None, ((), (), ("tests",))),
        ({"orchestrator.toml": "["}, GateProfile.CUSTOM, ("lint",), ((), (), ("lint",))),
    ],
    ids=["own word", "named, not there", "profile", "both", "no tests", "unreadable"],
)
async def test_base_decides_what_is_run_left_out_or_refused(
    base: dict[str, str],
    profile: GateProfile,
    gates: tuple[str, ...] | None,
    decided: tuple[tuple[str, ...], ...],
) -> None:
    plan = await Gates([MechanicalGate(name) for name in MECHANICAL]).plan_on(profile, gates, base_with(base))
    told = (plan.run, *(tuple(gate.gate for gate in part) for part in (plan.skipped, plan.refused)))
    assert told == decided
    for gate in plan.refused:
        assert "orchestrator.toml" in gate.reason


def test_gates_that_there_are_are_accepted() -> None:
    gates = make_gates()
    gates.check(spec_of(gates=["tests"]))
    gates.check(spec_of())


def test_fast_gates_come_first_and_each_has_one_phase() -> None:
    plan = Plan(run=(*KNOWN_GATES, "own"), skipped=())
    assert plan.of(Phase.PRE_COMMIT) == ("typecheck", "lint", "tests")
    assert plan.of(Phase.POST_COMMIT) == ("coverage", "build", "integration", "ai-review", "own")


async def test_every_verdict_is_told_once(reachable_path: Path, process_backend: Backend) -> None:
    told: list[Verdict] = []

    async def judged(verdict: Verdict) -> None:
        told.append(verdict)

    base = {"orchestrator.toml": '[gates.tests]\ncommand = "true"\n'}
    exhibit = exhibit_of(base, base, reachable_path / "c", process_backend, Limits())
    verdicts = await make_gates().run(("tests", "tests"), exhibit, deadline_s=30, judged=judged)
    assert [verdict.approved for verdict in verdicts] == [True]
    assert tuple(told) == verdicts
    assert await make_gates().run((), exhibit, deadline_s=30, judged=judged) == ()


async def test_cancelled_gate_leaves_no_process_and_no_checkout(
    reachable_path: Path, process_backend: Backend
) -> None:
    async def judged(verdict: Verdict) -> None:
        raise AssertionError(verdict)

    base = {"orchestrator.toml": '[gates.tests]\ncommand = "setsid sleep 1000 & echo > up; sleep 1000"\n'}
    exhibit = exhibit_of(base, base, reachable_path / "c", process_backend, Limits())
    async with trio.open_nursery() as gates:
        gates.start_soon(partial(make_gates().run, ("tests",), exhibit, deadline_s=30, judged=judged))
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
        await make_gates().run(("tests",), exhibit, deadline_s=30, judged=judged)
