"""The gates of a Cargo package: Cargo and its tools judge, offline."""

from __future__ import annotations

import pytest

from tests.gates.conftest import Changes, Judge, Toolchain
from tests.kit.projects import RUST

pytestmark = pytest.mark.slow

WRONG = {"src/lib.rs": RUST["src/lib.rs"].replace("rate / 100", "rate")}


@pytest.mark.parametrize(
    ("gate", "tests"), [("typecheck", None), ("tests", 2), ("build", None), ("integration", 1)]
)
async def test_sound_candidate_passes_every_gate(
    judge: Judge, with_cargo: Toolchain, gate: str, tests: int | None
) -> None:
    verdict = await judge(RUST, gate=gate, toolchain=with_cargo)
    assert (verdict.approved, verdict.tests) == (True, tests), verdict


#: A fault for each gate, and what comes of it.
FAULTS: dict[str, tuple[str, Changes, str, str]] = {
    "a type that is wrong": (
        "typecheck",
        {"src/lib.rs": RUST["src/lib.rs"].replace("net +", '"" +')},
        "typecheck failed with exit status 101",
        "error[E",
    ),
    "failing tests that the manifest takes away": (
        "tests",
        {
            **WRONG,
            "Cargo.toml": (
                RUST["Cargo.toml"] + "autotests = false\n\n[lib]\ntest = false\ndoctest = false\n\n"
                '[[test]]\nname = "whole"\nharness = false\n'
            ),
        },
        "the tests failed with exit status 101",
        "adds_the_tax",
    ),
    "a build that breaks": ("build", {"src/lib.rs": "fn\n"}, "build failed with exit status 101", "error"),
    "integration that fails": (
        "integration",
        WRONG,
        "the tests failed with exit status 101",
        "whole",
    ),
    "a test that exits beside sound ones": (
        "tests",
        {"tests/whole.rs": "#[test]\nfn whole() {\n    std::process::exit(0);\n}\n"},
        "the tests ended before their summary (exit status 0)",
        "",
    ),
    "a crate that is not there": (
        "build",
        {"Cargo.toml": RUST["Cargo.toml"] + '\n[dependencies]\nserde = "1"\n'},
        "serde is missing in the sandbox, which has no network",
        "serde",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_fault_is_rejected_with_its_reason(judge: Judge, with_cargo: Toolchain, fault: str) -> None:
    gate, changes, message, told = FAULTS[fault]
    verdict = await judge(RUST, changes, gate=gate, toolchain=with_cargo)
    assert not verdict.approved
    assert verdict.message.startswith(message), verdict
    assert told in verdict.output_tail, verdict.output_tail


async def test_linter_judges_or_is_named(judge: Judge, with_cargo: Toolchain) -> None:
    verdict = await judge(RUST, gate="lint", toolchain=with_cargo)
    assert verdict.approved or verdict.message.endswith("SANDBOX_PATH"), verdict
    unused = {"src/lib.rs": RUST["src/lib.rs"] + "\nfn unused() {}\n"}
    verdict = await judge(RUST, unused, gate="lint", toolchain=with_cargo)
    assert verdict.message == "lint failed with exit status 101" or "is missing" in verdict.message, verdict


async def test_coverage_is_asked_for_where_the_project_measures_it(
    judge: Judge, with_cargo: Toolchain
) -> None:
    assert "does not say how" in (await judge(RUST, gate="coverage", toolchain=with_cargo)).message
    measured = {**RUST, ".github/workflows/ci.yml": "steps: [{run: cargo llvm-cov}]\n"}
    verdict = await judge(measured, gate="coverage", toolchain=with_cargo)
    assert verdict.command == ("cargo", "llvm-cov", "--summary-only")
    assert verdict.approved or verdict.message.startswith("llvm-cov is missing in the sandbox"), verdict
