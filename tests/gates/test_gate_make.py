"""The gates of a makefile: the target of the gate's name is made, as the base defines it."""

from __future__ import annotations

import pytest

from orchestrator.gates.local import find
from tests.gates.conftest import Judge, base_with

TARGETS = {
    "typecheck": ("typecheck", "types"),
    "lint": ("lint",),
    "tests": ("test",),
    "coverage": ("coverage",),
    "build": ("build",),
    "integration": ("integration", "test-integration"),
}
ALL = {
    "Makefile": "".join(
        f"{target}:\n\t@sh check.sh {target}\n" for targets in TARGETS.values() for target in targets
    ),
    "check.sh": "grep -q good app && echo 'TOTAL    20    1    95%'\n",
    "app": "good\n",
}


@pytest.mark.parametrize("gate", TARGETS)
async def test_target_passes_a_good_and_rejects_a_bad_candidate(judge: Judge, gate: str) -> None:
    verdict = await judge(ALL, gate=gate)
    assert verdict.approved, verdict
    assert verdict.command == ("make", TARGETS[gate][0])
    assert verdict.coverage == (95.0 if gate == "coverage" else None)
    game = {"app": "bad\n", "check.sh": "exit 0\n", "Makefile": f"{TARGETS[gate][0]}:\n\ttrue\n"}
    verdict = await judge(ALL, game, gate=gate)
    assert not verdict.approved, verdict
    assert "failed with exit status 2" in verdict.message


async def test_second_name_of_a_target_counts_where_the_first_is_not_there() -> None:
    for gate, names in TARGETS.items():
        for name in names:
            assert (await find(gate, base_with({"Makefile": f"{name}:\n\ttrue\n"}))).shown == ("make", name)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("TOTAL    20    9    55%", "coverage is 55 %, below 85 %"),
        ("All files |   84.9 |   90 |   90 |   84.9 |", "coverage is 84.9 %, below 85 %"),
        ("nothing", "the coverage is not known: the tests told none"),
    ],
)
async def test_coverage_that_is_low_or_unknown_is_rejected(judge: Judge, said: str, message: str) -> None:
    verdict = await judge({"Makefile": f"coverage:\n\t@echo '{said}'\n"}, gate="coverage")
    assert verdict.message == message, verdict
