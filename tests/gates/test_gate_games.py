"""What a candidate does to be approved without passing its tests, and what comes of it."""

from __future__ import annotations

import pytest

from sandbox.base import MIB, Backend, Limits
from tests.gates.conftest import Judge, Toolchain
from tests.gates.test_gate_languages import BROKEN, GO, NODE, PYTEST, RUST, UNITTEST, need
from tests.kit.leaks import children

FAKE_RUNNER = "#!/bin/sh\necho '=== 99 passed in 0.01s ==='\nexit 0\n"
MAKE = {"Makefile": "include rules.mk\ntest:\n\t./check.sh\n", "rules.mk": "x = 1\n", "app": "good\n"}
CHECK = {"check.sh": "#!/bin/sh\ngrep -q good app\n"}

PYTEST_GAMES = {
    "conftest that exits": {"conftest.py": "import sys\nsys.exit(0)\n"},
    "conftest that exits hard": {"conftest.py": "import os\nos._exit(0)\n"},
    "test that exits hard": {"test_a.py": "import os\n\n\ndef test_a():\n    os._exit(0)\n"},
    "module of pytest's name": {"pytest.py": "def main(*a, **k):\n    return 0\n"},
    "package of pytest's name": {
        "pytest/__init__.py": "",
        "pytest/__main__.py": "print('1 passed in 0.1s')\n",
    },
    "module that pytest needs": {"pluggy.py": "raise SystemExit(0)\n", "json.py": "raise SystemExit(0)\n"},
    "runner on a path of its own": {"bin/pytest": FAKE_RUNNER, "pytest": FAKE_RUNNER},
    "configuration that ignores the tests": {
        "pytest.ini": "[pytest]\naddopts = --ignore=test_app.py --suppress-no-test-exit-code\n",
        "pyproject.toml": '[tool.pytest.ini_options]\ntestpaths = ["nowhere"]\n',
    },
    "site customisation": {
        "sitecustomize.py": "import os\nos._exit(0)\n",
        "usercustomize.py": "import os\nos._exit(0)\n",
    },
    "outcome turned into a success": {
        "conftest.py": (
            "import pytest\n\n\n@pytest.hookimpl(hookwrapper=True)\n"
            "def pytest_runtest_makereport(item, call):\n"
            "    outcome = yield\n    outcome.get_result().outcome = 'passed'\n"
        )
    },
    "exit status turned into a success": {
        "conftest.py": "def pytest_sessionfinish(session):\n    session.exitstatus = 0\n"
    },
    "report of its own": {
        "conftest.py": (
            "import os\n"
            "os.write(1, b'\\n\\x1e' + b'0' * 32 + b' {\"runner\": \"pytest\", \"ran\": 1}\\n')\n"
            "os._exit(0)\n"
        )
    },
    "all tests skipped": {
        "conftest.py": "import pytest\n\n\n@pytest.fixture(autouse=True)\ndef f():\n    pytest.skip('x')\n"
    },
    "all tests deselected": {"conftest.py": "def pytest_collection_modifyitems(items):\n    items[:] = []\n"},
    "all tests deleted": {"test_app.py": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("game", PYTEST_GAMES)
async def test_pytest_cannot_be_talked_into_an_approval(
    judge: Judge, with_pytest: Toolchain, game: str
) -> None:
    verdict = await judge(PYTEST, {**BROKEN, **PYTEST_GAMES[game]}, toolchain=with_pytest)
    assert not verdict.approved, verdict
    assert verdict.message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("conftest that exits", "the tests ended before their summary (exit status 3)"),
        ("conftest that exits hard", "the tests ended before their summary (exit status 0)"),
        ("all tests skipped", "no test ran: a suite without tests proves nothing"),
        ("all tests deleted", "no test ran: a suite without tests proves nothing"),
        ("outcome turned into a success", "1 of 1 tests failed (exit status 0)"),
    ],
)
async def test_rejection_says_what_happened(
    judge: Judge, with_pytest: Toolchain, game: str, message: str
) -> None:
    verdict = await judge(PYTEST, {**BROKEN, **PYTEST_GAMES[game]}, toolchain=with_pytest)
    assert verdict.message == message


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["module of pytest's name", "runner on a path of its own", "site customisation"]
)
async def test_sound_code_beside_a_fake_runner_is_judged_by_the_real_one(
    judge: Judge, with_pytest: Toolchain, name: str
) -> None:
    verdict = await judge(PYTEST, PYTEST_GAMES[name], toolchain=with_pytest)
    assert (verdict.approved, verdict.tests) == (True, 1), verdict


@pytest.mark.slow
async def test_failing_tests_of_expected_kinds_do_not_count_against_sound_code(
    judge: Judge, with_pytest: Toolchain
) -> None:
    more = (
        "import unittest\nimport pytest\n\n\n@pytest.mark.xfail\ndef test_x():\n    assert False\n\n\n"
        "def test_s():\n    pytest.skip('later')\n\n\n"
        "class T(unittest.TestCase):\n"
        "    @unittest.expectedFailure\n    def test_e(self):\n        self.fail()\n"
    )
    verdict = await judge(PYTEST, {"test_more.py": more}, toolchain=with_pytest)
    assert (verdict.approved, verdict.tests) == (True, 3), verdict
    assert verdict.message == "3 tests passed (1 skipped)"


@pytest.mark.parametrize(
    "change",
    [
        {"tests/test_app.py": None},
        {"tests/test_app.py": "import os\nos._exit(0)\n"},
        {"tests/test_app.py": "raise SystemExit(0)\n"},
        {"unittest.py": "def main():\n    pass\n", **BROKEN},
    ],
    ids=["deleted", "exits hard", "exits", "shadowed"],
)
async def test_unittest_cannot_be_talked_into_an_approval(
    judge: Judge, change: dict[str, str | None]
) -> None:
    need("python3")
    verdict = await judge(UNITTEST, change)
    assert not verdict.approved, verdict


@pytest.mark.parametrize(
    "change",
    [
        {"Makefile": "all:\n"},
        {"Makefile": "test:\n\ttrue\n"},
        {"Makefile": None},
        {"GNUmakefile": "test:\n\ttrue\n"},
        {"Makefile": "->other.mk", "other.mk": "test:\n\ttrue\n"},
        {"rules.mk": "SHELL = /bin/true\n"},
        {"check.sh": "#!/bin/sh\nexit 0\n"},
        {"bin/grep": "#!/bin/sh\nexit 0\n", "grep": "#!/bin/sh\nexit 0\n"},
    ],
    ids=["target deleted", "emptied", "file deleted", "stronger name", "link", "included", "script", "tool"],
)
async def test_make_runs_the_definition_of_the_base(judge: Judge, change: dict[str, str | None]) -> None:
    need("make")
    assert (await judge({**MAKE, **CHECK})).approved
    verdict = await judge({**MAKE, **CHECK}, {"app": "bad\n", **change})
    assert not verdict.approved, verdict


async def test_make_refuses_what_would_take_the_place_of_its_runner(judge: Judge) -> None:
    need("make")
    base = {
        "Makefile": "test:\n\tpython3 -m unittest\n",
        "test_a.py": UNITTEST["tests/test_app.py"],
        "app.py": "x = 1\n",
    }
    verdict = await judge(base, {"unittest.py": "print('Ran 5 tests in 0.1s')\n"})
    assert not verdict.approved
    assert verdict.message == "the candidate adds unittest.py, which would take the place of the test runner"


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"package.json": '{"scripts": {"test": "true"}}'},
        {"package.json": None},
        {"package.json": "no json"},
        {"package.json": "[1]"},
        {"node_modules/.bin/node": FAKE_RUNNER},
        {".npmrc": "script-shell=/bin/true\n"},
    ],
    ids=["edited", "deleted", "broken", "list", "tool", "shell"],
)
async def test_node_runs_the_script_of_the_base(judge: Judge, change: dict[str, str | None]) -> None:
    need("node")
    verdict = await judge(NODE, {"app.js": "exports.f = () => 2;\n", **change})
    assert not verdict.approved, verdict


@pytest.mark.slow
async def test_node_script_that_calls_another_gets_that_of_the_base(judge: Judge) -> None:
    need("npm")
    base = {
        **NODE,
        "package.json": '{"name": "x", "scripts": {"test": "npm run unit", "unit": "sh unit.sh"}}',
        "unit.sh": "grep -q good app\n",
        "app": "good\n",
    }
    assert (await judge(base)).approved
    change = {"package.json": '{"scripts": {"test": "npm run unit", "unit": "true"}}', "app": "bad\n"}
    assert not (await judge(base, change)).approved


WORKSPACE = {
    "package.json": '{"private": true, "workspaces": ["packages/*"], "scripts": {"test": "npm test -ws"}}',
    "packages/a/package.json": '{"name": "a", "version": "1.0.0", "scripts": {"test": "sh check.sh"}}',
    "packages/a/check.sh": "grep -q good app\n",
    "packages/a/app": "good\n",
}
TRUE = WORKSPACE["packages/a/package.json"].replace("sh check.sh", "true")
ADDED = '{"name": "b", "version": "1.0.0", "scripts": {"test": "true"}}'


@pytest.mark.slow
async def test_workspaces_run_the_scripts_of_the_base(judge: Judge) -> None:
    need("npm")
    dependency = TRUE.replace('"true"}', '"sh check.sh"}, "dependencies": {"b": "1"}')
    own = {"packages/a/package.json": dependency, "packages/b/package.json": ADDED}
    verdict = await judge(WORKSPACE, own)
    assert (verdict.approved, verdict.protected) == (True, None), verdict
    bad: dict[str, str | None] = {"packages/a/app": "bad\n"}
    games: dict[str, dict[str, str | None]] = {
        "edited": {"packages/a/package.json": TRUE},
        "deleted": {"packages/a/package.json": None, "packages/b/package.json": ADDED},
        "script": {"packages/a/check.sh": "exit 0\n"},
        "link": {
            **{path: None for path in WORKSPACE if path.startswith("packages/a/")},
            "packages/a": "->../evil",
            "evil/package.json": TRUE,
            "evil/app": "bad\n",
        },
    }
    for name, game in games.items():
        verdict = await judge(WORKSPACE, ({} if name == "link" else bad) | game)
        assert not verdict.approved, (name, verdict)
        assert verdict.protected, name
    verdict = await judge(WORKSPACE, {**bad, "packages/a/node_modules/.bin/sh": FAKE_RUNNER})
    assert "the candidate adds packages/a/node_modules, which" in verdict.message


@pytest.mark.slow
async def test_go_main_that_runs_no_test_is_rejected(judge: Judge) -> None:
    need("go")
    main = 'package x\n\nimport (\n\t"os"\n\t"testing"\n)\n\nfunc TestMain(m *testing.M) {\n\tos.Exit(0)\n}\n'
    verdict = await judge(GO, {"main_test.go": main})
    assert verdict.message == "the tests ended before their summary (exit status 0)"


@pytest.mark.slow
async def test_cargo_runs_its_tests_and_not_the_candidates_runner(
    judge: Judge, with_cargo: Toolchain
) -> None:
    change = {
        "src/lib.rs": RUST["src/lib.rs"].replace("{ 1 }", "{ 2 }", 1),
        ".cargo/config.toml": '[target.x86_64-unknown-linux-gnu]\nrunner = "./run"\n',
        "run": "#!/bin/sh\necho 'test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured'\n",
    }
    verdict = await judge(RUST, change, toolchain=with_cargo)
    assert not verdict.approved, verdict


async def test_own_word_is_read_from_the_base_with_its_script(judge: Judge) -> None:
    base = {"orchestrator.toml": '[gates.tests]\ncommand = ["sh", "check.sh"]\n', **CHECK, "app": "good\n"}
    assert (await judge(base)).approved
    for change in (
        {"orchestrator.toml": '[gates.tests]\ncommand = "true"\n'},
        {"orchestrator.toml": None},
        {"check.sh": "exit 0\n"},
        {"check.sh": None},
    ):
        verdict = await judge(base, {"app": "bad\n", **change})
        assert not verdict.approved, change


@pytest.mark.parametrize(
    "said",
    [
        "Ran 0 tests in 0.000s",
        "no tests ran in 0.01s",
        "# tests 0\n# pass 0\n# fail 0",
        "1..0",
        "  0 passing (1ms)",
    ],
)
async def test_command_whose_own_summary_counts_nothing_is_rejected(judge: Judge, said: str) -> None:
    command = f"printf '%s\\n' '{said}'".replace("\n", "' '")
    verdict = await judge(
        {"orchestrator.toml": f'[gates.tests]\ncommand = """{command}"""\n'.replace("\\", "\\\\")}
    )
    assert verdict.message == "no test ran: a suite without tests proves nothing", verdict


async def test_hung_tests_are_ended_at_the_time_the_base_gives(judge: Judge) -> None:
    before = children()
    base = {
        "orchestrator.toml": (
            '[gates.tests]\ncommand = "echo begun; setsid sleep 1000 & sleep 1000"\ntimeout = 2\n'
        )
    }
    verdict = await judge(base)
    assert verdict.message == "the tests did not end within 2 s"
    assert (verdict.exit_code, verdict.approved) == (None, False)
    assert verdict.output_tail == "begun\n"
    assert children() == before


async def test_deadline_of_the_gate_goes_before_a_longer_one_of_the_base(judge: Judge) -> None:
    base = {"orchestrator.toml": '[gates.tests]\ncommand = "sleep 1000"\ntimeout = 1000\n'}
    assert (await judge(base, deadline_s=0.3)).message == "the tests did not end within 0.3 s"


@pytest.mark.slow
async def test_flood_of_output_keeps_its_end_and_costs_no_memory(judge: Judge) -> None:
    command = "head -c 1000000000 /dev/zero | tr '\\\\0' x; echo; printf 'Ran 7 tests in 1.0s\\\\n'"
    before = peak_bytes()
    verdict = await judge({"orchestrator.toml": f'[gates.tests]\ncommand = "{command}"\n'})
    assert (verdict.approved, verdict.tests) == (True, 7), verdict
    assert len(verdict.output_tail) <= 8192
    assert peak_bytes() - before < 32 * MIB


def peak_bytes() -> int:
    import resource  # noqa: PLC0415

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def test_evidence_holds_nothing_that_a_terminal_obeys(judge: Judge) -> None:
    command = r"printf '\\033[31mred\\033[0m \\033]52;c;eA==\\007 \\001 \\342\\200\\256 bad \\377\\n'"
    verdict = await judge({"orchestrator.toml": f'[gates.tests]\ncommand = "{command}"\n'})
    assert verdict.output_tail == "red  \\x01 \\u202e bad \N{REPLACEMENT CHARACTER}\n"


@pytest.mark.parametrize(("script", "message"), [("kill -9 $$", "signal 9"), ("kill -SEGV $$", "signal 11")])
async def test_tests_that_die_by_a_signal_are_rejected(judge: Judge, script: str, message: str) -> None:
    verdict = await judge({"orchestrator.toml": f'[gates.tests]\ncommand = "{script}"\n'})
    assert verdict.message == f"the tests were ended by {message}"


async def test_candidate_that_is_in_the_way_of_the_definition_does_not_stop_it(judge: Judge) -> None:
    need("make")
    base = {**MAKE, "tools/check.sh": CHECK["check.sh"], "Makefile": "test:\n\tsh tools/check.sh\n"}
    in_the_way = {"Makefile": None, "Makefile/x": "a directory\n", "tools/check.sh": "->/dev/null"}
    assert (await judge(base, in_the_way)).approved
    blocked = await judge(base, {"tools/check.sh": None, "tools": "a file\n"})
    assert not blocked.approved
    assert "restore" in blocked.message


async def test_limits_of_the_sandbox_hold_for_the_tests(judge: Judge, process_backend: Backend) -> None:
    base = {"orchestrator.toml": '[gates.tests]\ncommand = "test $(ulimit -n) = 77"\n'}
    assert (await judge(base, limits=Limits(open_files=77))).approved
    assert (await judge(base, limits=Limits(open_files=77), backend=process_backend)).approved
