"""The gate `tests` runs each language's own tools and tells a pass from a failure."""

from __future__ import annotations

import shutil

import pytest

from sandbox.base import Backend
from tests.gates.conftest import Judge, Toolchain

PYTEST = {
    "app.py": "def f():\n    return 1\n",
    "test_app.py": "from app import f\n\n\ndef test_f():\n    assert f() == 1\n",
}
UNITTEST = {
    "app.py": "def f():\n    return 1\n",
    "tests/test_app.py": (
        "import unittest\nimport app\n\n\nclass T(unittest.TestCase):\n"
        "    def test_f(self):\n        self.assertEqual(app.f(), 1)\n"
    ),
}
BROKEN = {"app.py": "def f():\n    return 2\n"}

NODE = {
    "package.json": '{"name": "x", "scripts": {"test": "node --test"}}',
    "app.js": "exports.f = () => 1;\n",
    "app.test.js": (
        'const test = require("node:test"); const assert = require("node:assert");\n'
        'test("f", () => assert.equal(require("./app.js").f(), 1));\n'
        'test("g", () => {});\n'
    ),
}
GO = {
    "go.mod": "module example.org/x\n\ngo 1.19\n",
    "app.go": "package x\n\nfunc F() int { return 1 }\n",
    "app_test.go": (
        'package x\n\nimport "testing"\n\n'
        'func TestF(t *testing.T) {\n\tif F() != 1 {\n\t\tt.Fatal("no")\n\t}\n}\n'
    ),
}
RUST = {
    "Cargo.toml": '[package]\nname = "x"\nversion = "0.1.0"\nedition = "2021"\n',
    "src/lib.rs": (
        "pub fn f() -> i32 { 1 }\n\n"
        "#[cfg(test)]\nmod tests {\n    #[test]\n    fn one() { assert_eq!(super::f(), 1); }\n}\n"
    ),
}


def need(tool: str) -> None:
    if shutil.which(tool, path="/usr/local/bin:/usr/bin:/bin") is None:
        pytest.skip(f"{tool} is missing")


@pytest.mark.slow
async def test_pytest_project_passes_with_its_count(judge: Judge, with_pytest: Toolchain) -> None:
    verdict = await judge(PYTEST, toolchain=with_pytest)
    assert verdict.approved, verdict
    assert (verdict.tests, verdict.exit_code) == (1, 0)
    assert verdict.command == ("python3", "-m", "pytest")
    assert verdict.message == "1 test passed"
    assert "1 passed" in verdict.output_tail
    assert verdict.duration_ms > 0


@pytest.mark.slow
async def test_pytest_project_that_fails_is_rejected_with_the_failure(
    judge: Judge, with_pytest: Toolchain
) -> None:
    verdict = await judge(PYTEST, BROKEN, toolchain=with_pytest)
    assert not verdict.approved
    assert verdict.message == "1 of 1 tests failed (exit status 1)"
    assert "assert 2 == 1" in verdict.output_tail


@pytest.mark.slow
async def test_pytest_finds_sources_below_src_and_the_configuration_of_the_base(
    judge: Judge, with_pytest: Toolchain
) -> None:
    base = {
        "src/app.py": PYTEST["app.py"],
        "checks/check_app.py": "import app\n\n\ndef check_f():\n    assert app.f() == 1\n",
        "pyproject.toml": (
            '[tool.pytest.ini_options]\npython_files = "check_*.py"\npython_functions = "check_*"\n'
            'testpaths = ["checks"]\n'
        ),
    }
    verdict = await judge(base, toolchain=with_pytest)
    assert (verdict.approved, verdict.tests) == (True, 1), verdict


@pytest.mark.slow
async def test_tests_that_cannot_be_imported_are_rejected_with_the_reason(
    judge: Judge, with_pytest: Toolchain
) -> None:
    verdict = await judge(PYTEST, {"app.py": "import nothing_of_this_name\n"}, toolchain=with_pytest)
    assert verdict.message == "the tests could not be loaded: 1 errors (exit status 2)"
    assert "nothing_of_this_name" in verdict.output_tail


@pytest.mark.slow
async def test_error_in_a_fixture_is_rejected(judge: Judge, with_pytest: Toolchain) -> None:
    conftest = "import pytest\n\n\n@pytest.fixture(autouse=True)\ndef f():\n    assert False\n"
    verdict = await judge(PYTEST, {"conftest.py": conftest}, toolchain=with_pytest)
    assert not verdict.approved
    assert "1 error" in verdict.message


@pytest.mark.slow
async def test_configuration_of_the_base_is_kept_to(judge: Judge, with_pytest: Toolchain) -> None:
    strict = {**PYTEST, "pytest.ini": "[pytest]\nfilterwarnings = error\naddopts = --strict-config\n"}
    assert (await judge(strict, toolchain=with_pytest)).approved
    unknown = {**PYTEST, "tox.ini": "[pytest]\naddopts = --no-such-option\n"}
    verdict = await judge(unknown, toolchain=with_pytest)
    assert verdict.message == "the tests failed with exit status 4"
    assert "--no-such-option" in verdict.output_tail


async def test_unittest_project_passes_without_pytest(judge: Judge) -> None:
    need("python3")
    verdict = await judge(UNITTEST)
    assert (verdict.approved, verdict.tests) == (True, 1), verdict


async def test_unittest_project_that_fails_is_rejected(judge: Judge) -> None:
    need("python3")
    verdict = await judge(UNITTEST, BROKEN)
    assert (verdict.approved, verdict.exit_code) == (False, 1), verdict


async def test_pytest_project_without_pytest_is_rejected_naming_tool_and_fix(judge: Judge) -> None:
    need("python3")
    verdict = await judge(PYTEST)
    assert not verdict.approved
    assert verdict.message.startswith("pytest is missing in the sandbox: ")
    assert "SANDBOX_READ_ONLY" in verdict.message


@pytest.mark.slow
async def test_node_project_passes_with_its_count(judge: Judge) -> None:
    need("node")
    verdict = await judge(NODE)
    assert (verdict.approved, verdict.tests) == (True, 2), verdict


@pytest.mark.slow
async def test_node_project_that_fails_is_rejected(judge: Judge) -> None:
    need("node")
    verdict = await judge(NODE, {"app.js": "exports.f = () => 2;\n"})
    assert (verdict.approved, verdict.exit_code) == (False, 1), verdict


@pytest.mark.slow
async def test_go_project_passes_with_its_count(judge: Judge) -> None:
    need("go")
    verdict = await judge(GO)
    assert (verdict.approved, verdict.tests) == (True, 1), verdict


@pytest.mark.slow
async def test_go_project_that_fails_is_rejected(judge: Judge) -> None:
    need("go")
    verdict = await judge(GO, {"app.go": "package x\n\nfunc F() int { return 2 }\n"})
    assert not verdict.approved
    assert "--- FAIL: TestF" in verdict.output_tail
    assert "Action" not in verdict.output_tail


@pytest.mark.slow
async def test_rust_project_passes_with_its_count(judge: Judge, with_cargo: Toolchain) -> None:
    verdict = await judge(RUST, toolchain=with_cargo)
    assert (verdict.approved, verdict.tests) == (True, 1), verdict


@pytest.mark.slow
async def test_rust_project_that_fails_is_rejected(judge: Judge, with_cargo: Toolchain) -> None:
    changed = RUST["src/lib.rs"].replace("{ 1 }", "{ 2 }", 1)
    verdict = await judge(RUST, {"src/lib.rs": changed}, toolchain=with_cargo)
    assert (verdict.approved, verdict.exit_code) == (False, 101), verdict


async def test_make_target_passes_and_its_count_may_be_unknown(judge: Judge) -> None:
    need("make")
    verdict = await judge({"Makefile": "all:\n\ntest: all\n\t@grep -q good app\n", "app": "good\n"})
    assert (verdict.approved, verdict.tests) == (True, None), verdict
    assert verdict.command == ("make", "test")


async def test_make_target_that_fails_is_rejected(judge: Judge) -> None:
    need("make")
    verdict = await judge({"Makefile": "test:\n\tgrep good app\n", "app": "good\n"}, {"app": "bad\n"})
    assert not verdict.approved
    assert verdict.message == "the tests failed with exit status 2"


@pytest.mark.parametrize("command", ['"grep -q good app"', '["grep", "-q", "good", "app"]'])
async def test_own_word_goes_before_everything(judge: Judge, command: str) -> None:
    base = {
        "orchestrator.toml": f"[gates.tests]\ncommand = {command}\n",
        "Makefile": "test:\n\tfalse\n",
        "app": "good\n",
    }
    verdict = await judge(base)
    assert verdict.approved, verdict
    assert not (await judge(base, {"app": "bad\n"})).approved


async def test_project_without_tests_is_told_how_to_define_them(judge: Judge) -> None:
    verdict = await judge({"README.md": "x\n"})
    assert not verdict.approved
    assert "[gates.tests]" in verdict.message


async def test_missing_tool_is_named_with_the_fix(judge: Judge) -> None:
    for command in ('"no-such-tool --run"', '["no-such-tool"]'):
        verdict = await judge({"orchestrator.toml": f"[gates.tests]\ncommand = {command}\n"})
        assert not verdict.approved
        assert verdict.message.startswith("no-such-tool is missing in the sandbox"), verdict
        assert "SANDBOX_PATH" in verdict.message


@pytest.mark.parametrize(
    ("recipe", "tool"),
    [
        ("no-such-tool x", "no-such-tool"),
        ("@true; no-such-tool", "no-such-tool"),
        ("python3 -m pytest", "pytest"),
    ],
)
async def test_tool_that_make_misses_is_named_too(judge: Judge, recipe: str, tool: str) -> None:
    need("make")
    verdict = await judge({"Makefile": f"test:\n\t{recipe}\n"})
    assert verdict.message.startswith(f"{tool} is missing in the sandbox"), verdict


async def test_gate_works_on_an_overlay(judge: Judge) -> None:
    need("make")
    base = {"Makefile": "test:\n\tgrep -q good app\n", "app": "good\n"}
    verdict = await judge(base, {"Makefile": "test:\n\ttrue\n"}, layered=True)
    assert verdict.approved, verdict
    assert not (await judge(base, {"Makefile": None, "app": "bad\n"}, layered=True)).approved


async def test_gate_works_without_isolation_too(judge: Judge, process_backend: Backend) -> None:
    need("python3")
    assert (await judge(UNITTEST, backend=process_backend)).approved
    assert not (await judge(UNITTEST, BROKEN, backend=process_backend)).approved
