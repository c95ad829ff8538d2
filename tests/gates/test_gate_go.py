"""The gates of a Go module: Go's own tools judge, offline."""

from __future__ import annotations

import shutil

import pytest

from tests.gates.conftest import SYSTEM_PATH, Changes, Judge
from tests.kit.projects import GO

pytestmark = pytest.mark.slow

EXIT = (
    'package shop\n\nimport (\n\t"os"\n\t"testing"\n)\n\n'
    "func TestMain(m *testing.M) {\n\tos.Exit(0)\n}\n\nfunc TestNothing(t *testing.T) {}\n"
)
TAG = "//go:build ignore\n\n"


@pytest.fixture(autouse=True)
def _go() -> None:
    if shutil.which("go", path=SYSTEM_PATH) is None:
        pytest.skip("go is missing")


@pytest.mark.parametrize(
    ("gate", "tests", "coverage"),
    [
        ("typecheck", None, None),
        ("lint", None, None),
        ("tests", 3, None),
        ("coverage", 3, 100.0),
        ("build", None, None),
        ("integration", 1, None),
    ],
)
async def test_sound_candidate_passes_every_gate(
    judge: Judge, gate: str, tests: int | None, coverage: float | None
) -> None:
    verdict = await judge(GO, gate=gate)
    assert (verdict.approved, verdict.tests, verdict.coverage) == (True, tests, coverage), verdict


#: A fault for each gate, and what comes of it.
FAULTS: dict[str, tuple[str, Changes, str, str]] = {
    "a format that does not fit": (
        "typecheck",
        {"more.go": 'package shop\n\nimport "fmt"\n\nfunc Show() { fmt.Printf("%d", "x") }\n'},
        "typecheck failed with exit status 2",
        "wrong type string",
    ),
    "code that is not formatted": (
        "lint",
        {"more.go": "package shop\nfunc  Unformatted( ) {  }\n"},
        "lint failed with exit status 1",
        "more.go",
    ),
    "a failing test": (
        "tests",
        {"price.go": GO["price.go"].replace("rate/100", "rate"), "go.work": "go 1.19\nuse ./none\n"},
        "the tests failed with exit status 1",
        "--- FAIL: TestGross",
    ),
    "code that no test reaches": (
        "coverage",
        {
            "more.go": (
                "package shop\n\n// More is not tested.\nfunc More(a int) int {\n"
                "\ta++\n\ta++\n\ta++\n\ta++\n\treturn a\n}\n"
            )
        },
        "coverage is 37.5 %, below 85 %",
        "(statements)",
    ),
    "a build that breaks": ("build", {"price.go": "package shop\n\nfunc\n"}, "build failed with", "syntax"),
    "integration that fails": (
        "integration",
        {"price.go": GO["price.go"].replace("rate/100", "rate")},
        "the tests failed with exit status 1",
        "--- FAIL: TestShop",
    ),
    "a main that exits beside sound packages": (
        "tests",
        {"price_test.go": EXIT},
        "the tests ended before their summary (exit status 0)",
        "",
    ),
    "tests that are all left out": (
        "tests",
        {
            "price_test.go": TAG + GO["price_test.go"],
            "integration/shop_test.go": TAG + GO["integration/shop_test.go"],
        },
        "no test ran: a suite without tests proves nothing",
        "",
    ),
    "a test that exits": (
        "tests",
        {"price_test.go": EXIT.replace("Main(m *testing.M)", "Exit(t *testing.T)")},
        "the tests failed with exit status 1",
        "unexpected call to os.Exit(0)",
    ),
    "a module that is not there": (
        "build",
        {"more.go": 'package shop\n\nimport _ "example.com/none"\n'},
        "build failed with exit status 1",
        "example.com/none",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_fault_is_rejected_with_its_reason(judge: Judge, fault: str) -> None:
    gate, changes, message, told = FAULTS[fault]
    verdict = await judge(GO, changes, gate=gate)
    assert not verdict.approved
    assert verdict.message.startswith(message), verdict
    assert told in verdict.output_tail, verdict.output_tail


@pytest.mark.parametrize(
    ("config", "tool"), [(".golangci.yml", "golangci-lint"), ("staticcheck.conf", "staticcheck")]
)
async def test_linter_that_the_base_configures_is_asked_for_by_name(
    judge: Judge, config: str, tool: str
) -> None:
    if shutil.which(tool, path=SYSTEM_PATH) is not None:
        assert (await judge({**GO, config: ""}, gate="lint")).command[0] == tool
        return
    verdict = await judge({**GO, config: ""}, gate="lint")
    assert verdict.message.startswith(f"{tool} is missing in the sandbox"), verdict
