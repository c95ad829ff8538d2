"""A script of package.json is made to report where all of it is understood, else run as it stands."""

from __future__ import annotations

import pytest

from orchestrator.gates.definition import Unrunnable
from orchestrator.gates.local import find
from orchestrator.gates.node_scripts import measurable, reporting
from tests.gates.conftest import base_with
from tests.gates.test_gate_definition import restored


def told(**scripts: str) -> str | None:
    """Return who reports in the script `test`."""
    return reporting("test", scripts, tools=set()).runner


@pytest.mark.parametrize(
    ("scripts", "runner"),
    [
        ({"test": "vitest"}, "vitest"),
        ({"test": "vitest run --project unit"}, "vitest"),
        ({"test": "tsc && npx jest --ci"}, "jest"),
        ({"test": "cross-env A=1 mocha 'test/**/*.js'"}, "mocha"),
        ({"test": "node --import tsx --test"}, "node"),
        ({"test": "npm run unit", "unit": "vitest run"}, "vitest"),
        ({"test": "pnpm unit -- --run", "unit": "vitest"}, "vitest"),
        ({"test": "c8 yarn unit"}, None),
        ({"test": "vitest run", "pretest": "eslint ."}, "vitest"),
        ({"test": "c8 node --test"}, "node"),
        ({"test": "npm test"}, None),
        ({"test": "vitest run || true"}, None),
        ({"test": "vitest run; exit 0"}, None),
        ({"test": "echo $(vitest)"}, None),
        ({"test": "vitest run | cat"}, None),
        ({"test": "vitest run & wait"}, None),
        ({"test": "vitest run # no"}, None),
        ({"test": "vitest run && jest"}, None),
        ({"test": "vitest run --reporter=dot"}, None),
        ({"test": 'echo "a && b" && vitest run'}, None),
        ({"test": "make check"}, None),
        ({"test": "vitest " + "x" * 3000}, None),
    ],
)
def test_runner_is_known_in_a_script_that_is_understood(scripts: dict[str, str], runner: str | None) -> None:
    assert told(**scripts) == runner


def test_script_that_is_not_understood_is_run_as_it_stands_with_what_npm_runs_around_it() -> None:
    run = reporting("test", {"pretest": "a", "test": "b || true", "posttest": "c"}, tools=set())
    assert run.text == "(a\n) && (b || true\n) && (c\n)"


@pytest.mark.parametrize(
    ("script", "tools", "part"),
    [
        ("vitest run", set(), "vitest run --reporter=default --reporter=json --outputFile.json="),
        ("vitest run", set(), " --coverage.enabled --coverage.reporter=text"),
        ("jest", set(), "jest --json --outputFile="),
        ("jest", set(), " --coverageReporters=json-summary"),
        ("mocha", {"nyc"}, "nyc --reporter=text --reporter=json-summary --report-dir="),
        ("c8 --all mocha", {"c8"}, "c8 --reporter=text --reporter=json-summary --reports-dir="),
        ("node --test", set(), " --experimental-test-coverage"),
        ("node --test", {"c8"}, "c8 --reporter=text"),
    ],
)
def test_runner_is_told_to_measure(script: str, tools: set[str], part: str) -> None:
    assert part in reporting("test", {"test": script}, coverage=True, tools=tools).text


@pytest.mark.parametrize(
    ("script", "tools", "can"),
    [
        ("vitest", {"vitest"}, False),
        ("vitest", {"@vitest/coverage-istanbul"}, True),
        ("jest", set(), True),
        ("mocha", set(), False),
        ("mocha", {"c8"}, True),
        ("node --test", set(), True),
        ("ava", {"c8"}, False),
    ],
)
def test_coverage_is_measured_where_the_project_has_what_it_takes(
    script: str, tools: set[str], *, can: bool
) -> None:
    assert measurable("test", {"test": script}, tools) is can


@pytest.mark.parametrize(
    ("gate", "base", "shown"),
    [
        ("typecheck", {"tsconfig.json": "{}"}, "tsc --noEmit -p tsconfig.json"),
        ("typecheck", {"tsconfig.json": '{"references": []}'}, "tsc --build --noEmit"),
        ("typecheck", {"jsconfig.json": "{}"}, "tsc --noEmit -p jsconfig.json"),
        ("lint", {"eslint.config.mjs": ""}, "eslint ."),
        ("lint", {"biome.json": "{}"}, "biome lint ."),
        ("build", {"tsconfig.json": "{}"}, "tsc -p tsconfig.json --outDir .orchestrator-gate/build"),
        ("tests", {"package.json": '{"devDependencies": {"vitest": "3"}}'}, "vitest run"),
        ("tests", {"src/a.test.js": ""}, "node --test"),
        (
            "integration",
            {"package.json": '{"devDependencies": {"jest": "3"}}', "test/integration/a.js": ""},
            "jest test/integration",
        ),
    ],
)
async def test_tool_that_the_base_configures_is_run_without_a_script(
    gate: str, base: dict[str, str], shown: str
) -> None:
    definition = await find(gate, base_with({"package.json": "{}", **base}))
    assert " ".join(definition.shown) == shown


@pytest.mark.parametrize(
    ("gate", "base"),
    [
        ("typecheck", {}),
        ("lint", {}),
        ("build", {"tsconfig.json": '{"compilerOptions": {"noEmit": true}}'}),
        ("coverage", {"package.json": '{"scripts": {"test": "ava"}}'}),
        ("integration", {"test/integration/a.js": ""}),
    ],
)
async def test_gate_that_the_base_says_nothing_of_is_not_defined(gate: str, base: dict[str, str]) -> None:
    with pytest.raises(Unrunnable, match="does not say how"):
        await find(gate, base_with({"package.json": "{}", **base}))


async def test_configuration_is_restored_with_what_it_is_made_of_but_not_with_the_sources() -> None:
    base = {
        "package.json": '{"scripts": {"lint": "eslint ."}}',
        "eslint.config.js": 'import rules from "./rules/ours.js";\nimport x from "./src/x.js";\n',
        "rules/ours.js": 'const more = require("../rules/more.cjs");\n',
        "rules/more.cjs": "",
        "src/x.js": "",
        "tsconfig.json": '{"extends": "./tsconfig.base", "references": [{"path": "./packages/a"}]}',
        "tsconfig.base.json": "{}",
        "packages/a/tsconfig.json": '{"extends": "../../tsconfig.base.json"}',
    }
    names = set(restored(await find("lint", base_with(base)))) - {".orchestrator-gate/order.json"}
    assert names == set(base) - {"package.json", "src/x.js"}
