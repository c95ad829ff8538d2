"""Which gates a task gets, what is refused at once, and how they run side by side."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from orchestrator.core.model import Verdict
from orchestrator.core.share import Share
from orchestrator.core.spec import GateProfile, TaskSpec
from orchestrator.errors import FieldRefused
from orchestrator.gates.base import KNOWN_GATES, Gates, Phase, Plan
from orchestrator.gates.mechanical import MechanicalGate
from orchestrator.gates.registry import MECHANICAL, make_gates
from orchestrator.gates.share import ShareGate
from sandbox.base import Backend, Limits
from sandbox.probe import default_user
from sandbox.trusted import ProcessBackend
from tests.gates.conftest import base_with, exhibit_of
from tests.kit.until import until

LATE = ("coverage", "build", "integration", "ai-review", "ai-share")


def spec_of(**fields: object) -> TaskSpec:
    return TaskSpec.model_validate(
        {"taskId": "T", "context": {"repository": "https://example.org/r"}, **fields}
    )


@pytest.mark.parametrize(
    ("profile", "gates", "run", "skipped"),
    [
        (GateProfile.MINIMAL, None, ("tests",), ()),
        (GateProfile.STANDARD, None, ("tests",), ("typecheck", "lint", "coverage")),
        (
            GateProfile.STRICT,
            None,
            ("tests",),
            tuple(name for name in KNOWN_GATES if name not in {"tests", "ai-share"}),
        ),
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


def test_review_is_no_gate_of_a_host_without_a_model_and_its_profile_is_told_so() -> None:
    gates = make_gates()
    with pytest.raises(FieldRefused, match="'ai-review' is not on this host"):
        gates.check(spec_of(gates=["ai-review"]))
    assert [gate.gate for gate in gates.plan(GateProfile.STRICT, None).skipped] == ["ai-review"]


def test_name_of_no_gate_of_ours_may_be_the_repositorys_own() -> None:
    make_gates().check(spec_of(gates=["smoke"]))
    assert make_gates().plan(GateProfile.CUSTOM, ("smoke", "tests")).run == ("tests", "smoke")


SMOKE = {"orchestrator.toml": '[gates.smoke]\ncommand = "true"\n'}
TESTS = {"Makefile": "test:\n\ttrue\n"}


@pytest.mark.parametrize(
    ("profile", "more"),
    [
        (GateProfile.STRICT, ("ai-share",)),
        (GateProfile.MINIMAL, ("ai-share",)),
        (GateProfile.CUSTOM, ()),
    ],
)
def test_ceiling_for_agents_lines_is_a_gate_of_every_task_that_has_a_profile(
    profile: GateProfile, more: tuple[str, ...]
) -> None:
    plan = make_gates(ai_share_max=0.5).plan(profile, ())
    assert plan.run == (*make_gates().plan(profile, ()).run, *more)
    assert plan.of(Phase.POST_COMMIT)[-1:] == more
    with pytest.raises(FieldRefused, match="'ai-share' is not on this host"):
        make_gates().check(spec_of(gates=["ai-share"]))


@pytest.mark.parametrize(
    ("share", "approved", "lasting", "message"),
    [
        (Share(5, 10), True, False, "agents wrote 5 of the 10 lines that it adds (50%)"),
        (Share(6, 10), False, False, "agents wrote 6 of the 10 lines that it adds (60%)"),
        (Share(9, 9), False, True, "agents wrote 9 of the 9 lines that it adds (100%)"),
        (Share(0, 0), True, False, "it adds nothing that anybody could have written"),
        ("no branch", False, True, "how much agents wrote is not known: no branch"),
    ],
)
async def test_share_of_agents_is_held_to_its_ceiling_and_one_that_is_not_known_is_above_it(
    share: Share | str, *, approved: bool, lasting: bool, message: str, tmp_path: Path
) -> None:
    exhibit = exhibit_of({}, {}, tmp_path, ProcessBackend(default_user()), Limits())
    verdict = await ShareGate(0.5).judge(replace(exhibit, share=share), deadline_s=1)
    assert (verdict.gate, verdict.message) == ("ai-share", f"{message}; AI_SHARE_MAX allows 50%")
    assert (verdict.approved, verdict.lasting) == (approved, lasting)


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
    assert plan.of(Phase.POST_COMMIT) == (*LATE, "own")


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
