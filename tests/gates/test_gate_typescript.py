"""The gates of a TypeScript project: tsc, eslint and vitest judge, as the base configures them."""

from __future__ import annotations

import json

import pytest

from tests.gates.conftest import Changes, Files, Judge, Toolchain
from tests.kit.projects import TYPESCRIPT

pytestmark = pytest.mark.slow

Tools = tuple[Toolchain, Files]
WRONG = {"src/price.ts": TYPESCRIPT["src/price.ts"].replace("(1 + rate)", "(1 - rate)")}
UNTESTED = "".join(
    f'export function unused{n}(a: number): string {{\n  if (a > {n}) return "more";\n  return "less";\n}}\n'
    for n in range(4)
)


def scripts(**changed: str) -> Changes:
    """Return a package.json with other scripts."""
    manifest = json.loads(TYPESCRIPT["package.json"])
    return {"package.json": json.dumps({**manifest, "scripts": {**manifest["scripts"], **changed}})}


@pytest.mark.parametrize("gate", ["typecheck", "lint", "tests", "coverage", "build"])
async def test_sound_candidate_passes_every_gate(judge: Judge, with_node_tools: Tools, gate: str) -> None:
    toolchain, made = with_node_tools
    verdict = await judge(TYPESCRIPT, made, toolchain=toolchain, gate=gate)
    assert verdict.approved, verdict
    counted = gate in {"tests", "coverage"}
    assert (verdict.tests, verdict.coverage) == (
        3 if counted else None,
        100.0 if gate == "coverage" else None,
    )


#: A fault for each gate, and beside it what would hide the fault, were it the candidate's to say.
FAULTS: dict[str, tuple[str, Changes, str, str]] = {
    "a type that is wrong": (
        "typecheck",
        {
            "src/price.ts": TYPESCRIPT["src/price.ts"].replace("return Math", 'return "" + Math'),
            "tsconfig.json": '{"compilerOptions": {"noCheck": true}, "exclude": ["src"]}',
            **scripts(typecheck="true"),
        },
        "typecheck failed with exit status 2",
        "TS2322",
    ),
    "a rule of the linter": (
        "lint",
        {
            "src/price.ts": TYPESCRIPT["src/price.ts"].replace("  return", "  debugger;\n  return"),
            "eslint.config.js": 'export default [{ ignores: ["**"] }];\n',
            ".eslintignore": "src\n",
            **scripts(lint="true"),
        },
        "lint failed with exit status 1",
        "Unexpected 'debugger' statement",
    ),
    "a failing test": (
        "tests",
        {
            **WRONG,
            "vitest.config.ts": 'export default { test: { include: ["none"], passWithNoTests: true } };\n',
            "vitest.config.mts": 'export default { test: { include: ["none"], passWithNoTests: true } };\n',
            "vitest.workspace.ts": "export default [];\n",
            ".npmrc": "script-shell=/bin/true\n",
            **scripts(test="true", pretest="exit 0"),
        },
        "2 of 3 tests failed (exit status 1)",
        "AssertionError",
    ),
    "code that no test reaches": (
        "coverage",
        {
            "src/more.ts": UNTESTED,
            "vitest.config.ts": 'export default { test: { coverage: { exclude: ["**"] } } };\n',
            **scripts(coverage="echo 'All files | 100 | 100 | 100 | 100 |'"),
        },
        "coverage is ",
        "more.ts",
    ),
    "a build that breaks": (
        "build",
        {"src/price.ts": "export const = 1;\n", **scripts(build="true")},
        "build failed with exit status ",
        "TS1",
    ),
    "tests that are all gone": (
        "tests",
        {"src/price.test.ts": None, **scripts(test="vitest run --passWithNoTests")},
        "no test ran: a suite without tests proves nothing",
        "No test files found",
    ),
    "a test that ends the process": (
        "tests",
        {"src/price.test.ts": "process.exit(0);\n"},
        "the tests could not be loaded: 1 errors (exit status 1)",
        "process.exit",
    ),
    "tools of its own": (
        "tests",
        {
            "node_modules/.bin": None,
            "node_modules/.bin/vitest": "#!/bin/sh\nexit 0\n",
            ".git/info/made": None,
        },
        "the candidate adds node_modules, which would take the place of the project's tools",
        "",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_fault_is_rejected_whatever_the_candidate_says_of_the_gate(
    judge: Judge, with_node_tools: Tools, fault: str
) -> None:
    toolchain, made = with_node_tools
    gate, changes, message, told = FAULTS[fault]
    verdict = await judge(TYPESCRIPT, {**made, **changes}, toolchain=toolchain, gate=gate)
    assert not verdict.approved
    assert verdict.message.startswith(message), verdict
    assert told in verdict.output_tail, verdict.output_tail


async def test_dependency_that_the_candidate_adds_stays_in_its_package_json(
    judge: Judge, with_node_tools: Tools
) -> None:
    toolchain, _ = with_node_tools
    base = {
        "package.json": '{"name": "x", "scripts": {"test": "node --test", "lint": "node check.js"}}',
        "check.js": (
            'const { dependencies, scripts } = require("./package.json");\n'
            'process.exit(dependencies.zod && scripts.lint === "node check.js" ? 0 : 1);\n'
        ),
    }
    change = {"package.json": '{"name": "x", "dependencies": {"zod": "4"}, "scripts": {"lint": "true"}}'}
    assert (await judge(base, change, gate="lint", toolchain=toolchain)).approved


async def test_tool_that_is_not_installed_is_named_with_its_fix(judge: Judge) -> None:
    for gate, tool in (("typecheck", "tsc"), ("lint", "eslint"), ("tests", "vitest")):
        verdict = await judge(TYPESCRIPT, gate=gate)
        assert verdict.message.startswith(f"{tool} is missing in the sandbox"), verdict
        assert "SANDBOX_READ_ONLY" in verdict.message


async def test_mocha_and_c8_are_counted_and_measured(judge: Judge, with_node_tools: Tools) -> None:
    toolchain, made = with_node_tools
    base = {
        "package.json": '{"scripts": {"test": "mocha \\"test/*.js\\""}, "devDependencies": {"c8": "*"}}',
        "price.js": "exports.gross = (net) => net * 1.2;\n",
        "test/price.js": (
            'const assert = require("node:assert"); const { gross } = require("../price.js");\n'
            'describe("price", () => { it("is gross", () => assert.equal(gross(10), 12));\n'
            'it("waits"); });\n'
        ),
    }
    verdict = await judge(base, made, toolchain=toolchain, gate="coverage")
    assert (verdict.approved, verdict.tests, verdict.coverage) == (True, 1, 100.0), verdict
    wrong = {**made, "price.js": "exports.gross = (net) => net;\n"}
    verdict = await judge(base, wrong, toolchain=toolchain)
    assert verdict.message == "1 of 1 tests failed (exit status 1)", verdict
    assert "10 == 12" in verdict.output_tail
