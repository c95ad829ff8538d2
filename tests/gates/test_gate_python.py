"""Each gate passes a good and rejects a bad candidate of a small Python project, with a reason that helps."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from orchestrator.gates.definition import Undefined
from orchestrator.gates.local import find
from tests.gates.conftest import Changes, Files, Judge, Toolchain, base_with

CODE = (
    "def half(number: int) -> int:\n    if number < 0:\n"
    "        raise ValueError(number)\n    return number // 2\n"
)
TESTS = (
    "import pytest\n\nfrom app import half\n\n\ndef test_half() -> None:\n    assert half(4) == 2\n\n\n"
    "def test_negative() -> None:\n    with pytest.raises(ValueError):\n        half(-1)\n"
)
BACKEND = (
    "import zipfile\n\n\ndef build_wheel(folder, config_settings=None, metadata_directory=None):\n"
    "    text = open('app.py').read()\n    compile(text, 'app.py', 'exec')\n"
    "    with zipfile.ZipFile(folder + '/x-1-py3-none-any.whl', 'w') as wheel:\n"
    "        wheel.writestr('app.py', text)\n    return 'x-1-py3-none-any.whl'\n"
)
#: A project with everything configured.
PROJECT = {
    "app.py": CODE,
    "tests/test_app.py": TESTS,
    "tests/integration/test_whole.py": "import app\n\n\ndef test_it() -> None:\n    app.half(8) == 4\n",
    "_build/backend.py": BACKEND,
    "pyproject.toml": (
        '[project]\nname = "x"\nversion = "1"\n\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["_build"]\n\n'
        '[tool.mypy]\nstrict = true\nfiles = ["app.py"]\n\n'
        '[tool.ruff.lint]\nselect = ["E", "F"]\n\n'
        '[tool.coverage.run]\nsource = ["app"]\n\n[tool.coverage.report]\nfail_under = 90\n'
    ),
}
UNTESTED = CODE + "\n\ndef more(number: int) -> int:\n    number += 1\n    number += 2\n    return number\n"


@dataclass(frozen=True)
class Case:
    """A change, and what its gate says."""

    gate: str
    change: Changes
    message: str
    tail: str = ""
    base: Files = field(default_factory=lambda: PROJECT)


BAD = {
    "types": Case(
        "typecheck", {"app.py": CODE.replace("// 2", "/ 2")}, "typecheck failed with exit status 1", "float"
    ),
    "style": Case("lint", {"app.py": "import os\n" + CODE}, "lint failed with exit status 1", "F401"),
    "tests": Case(
        "tests", {"app.py": CODE.replace("// 2", "// 3")}, "1 of 3 tests failed (exit status 1)", "half(4)"
    ),
    "coverage": Case("coverage", {"app.py": UNTESTED}, "coverage is 62.5 %, below 90 %"),
    "build": Case("build", {"app.py": "def broken(:\n"}, "build failed with exit status 1", "SyntaxError"),
    "integration": Case(
        "integration",
        {"tests/integration/test_whole.py": "def test_whole():\n    assert False\n"},
        "1 of 1 tests failed (exit status 1)",
    ),
}
GOOD = {
    "typecheck": ("mypy",),
    "lint": ("ruff", "check", "."),
    "tests": ("python3", "-m", "pytest"),
    "coverage": ("python3", "-m", "coverage", "run", "-m", "pytest"),
    "build": ("python3", "-m", "build", "--wheel", "--no-isolation"),
    "integration": ("python3", "-m", "pytest", "tests/integration"),
}


@pytest.mark.slow
@pytest.mark.parametrize("gate", GOOD)
async def test_good_candidate_passes_with_its_evidence(
    judge: Judge, with_python_tools: Toolchain, gate: str
) -> None:
    verdict = await judge(PROJECT, {"app.py": "# The same.\n" + CODE}, toolchain=with_python_tools, gate=gate)
    assert verdict.approved, verdict
    assert (verdict.command, verdict.exit_code) == (GOOD[gate], 0)
    counted = {"tests": 3, "coverage": 3, "integration": 1}
    assert verdict.tests == counted.get(gate)
    assert verdict.coverage == (100.0 if gate == "coverage" else None)
    assert verdict.duration_ms > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
async def test_bad_candidate_is_rejected_by_its_gate_with_the_reason(
    judge: Judge, with_python_tools: Toolchain, name: str
) -> None:
    case = BAD[name]
    verdict = await judge(case.base, case.change, toolchain=with_python_tools, gate=case.gate)
    assert (verdict.approved, verdict.message) == (False, case.message), verdict
    assert case.tail in verdict.output_tail
    assert not verdict.lasting


@pytest.mark.parametrize("gate", ["typecheck", "lint", "coverage", "build", "integration"])
async def test_gate_that_nothing_in_the_base_configures_is_undefined_and_says_what_to_add(gate: str) -> None:
    with pytest.raises(Undefined, match=rf"\[gates\.{gate}\]"):
        await find(
            gate, base_with({"app.py": CODE, "tests/test_app.py": TESTS, "pyproject.toml": "[project]\n"})
        )


@pytest.mark.parametrize(
    ("gate", "file", "text", "shown"),
    [
        ("typecheck", "mypy.ini", "[mypy]\n", ("mypy", ".")),
        ("typecheck", "setup.cfg", "[mypy]\nfiles = a\n", ("mypy",)),
        ("typecheck", "pyrightconfig.json", "{}", ("pyright",)),
        ("typecheck", "pyproject.toml", '[tool.pyright]\ninclude = ["x"]\n', ("pyright",)),
        ("lint", "ruff.toml", "", ("ruff", "check", ".")),
        ("lint", ".flake8", "[flake8]\n", ("flake8",)),
        ("lint", "setup.cfg", "[flake8]\n", ("flake8",)),
        ("build", "pyproject.toml", "[build-system]\n", GOOD["build"]),
        (
            "integration",
            "pytest.ini",
            "[pytest]\nmarkers =\n    integration: slow\n",
            ("python3", "-m", "pytest", "-m", "integration"),
        ),
        ("coverage", "requirements-dev.txt", "pytest-cov==7\n", GOOD["coverage"]),
        ("coverage", ".coveragerc", "[report]\nfail_under = 90\n", GOOD["coverage"]),
    ],
)
async def test_gate_is_found_by_what_the_base_configures(
    gate: str, file: str, text: str, shown: tuple[str, ...]
) -> None:
    assert (await find(gate, base_with({"tests/test_a.py": "", file: text}))).shown == shown


@pytest.mark.parametrize(
    ("files", "minimum"),
    [
        ({".coveragerc": ""}, 85),
        ({".coveragerc": "[report]\nfail_under = 60\n"}, 85),
        ({".coveragerc": "[report]\nfail_under = 92.5\n"}, 92.5),
        ({"setup.cfg": "[coverage:report]\nfail_under = 91\n"}, 91),
        ({"pyproject.toml": "[tool.coverage.report]\nfail_under = 97\n"}, 97),
        ({"pytest.ini": "[pytest]\naddopts = --cov=a --cov-fail-under=99\n", ".coveragerc": ""}, 99),
    ],
)
async def test_bar_of_the_coverage_is_ours_or_the_projects_own_higher_one(
    files: Files, minimum: float
) -> None:
    assert (await find("coverage", base_with({"tests/test_a.py": "", **files}))).minimum == minimum


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gate", "tool"),
    [("typecheck", "mypy"), ("lint", "ruff"), ("coverage", "coverage"), ("build", "no_such_backend")],
)
async def test_missing_tool_is_a_rejection_that_names_it_and_that_no_turn_could_change(
    judge: Judge, with_pytest: Toolchain, gate: str, tool: str
) -> None:
    text = PROJECT["pyproject.toml"].replace('"backend"', '"no_such_backend"')
    verdict = await judge({**PROJECT, "pyproject.toml": text}, toolchain=with_pytest, gate=gate)
    assert not verdict.approved
    assert verdict.message.startswith(f"{tool} is missing in the sandbox: ")
    assert verdict.lasting
