"""Games that do not pay: what a candidate of a Python project does to be approved, and the word it gets."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.gates.conftest import Changes, Judge, Toolchain
from tests.gates.test_gate_python import CODE, PROJECT, TESTS, UNTESTED

WRONG = CODE.replace("// 2", "// 3")
#: Code that knows it is under test and goes for the report.
FORGER = """
import gc, json, os, sys
for number in range(3, 64):
    for line in (b'["", "status", 0]\\n', b'\\n\\x1e' + b'0' * 32 + b' {"ran": 9}\\n'):
        try:
            os.write(number, line)
        except OSError:
            pass
os._exit(0)
"""
SEEKER = """
import os


def test_seek():
    for place in ("mem", "environ", "fd"):
        path = f"/proc/{os.getppid()}/{place}"
        try:
            print("READ", os.listdir(path) if place == "fd" else open(path, "rb").read(1))
        except OSError as error:
            print("REFUSED", place)
    assert False
"""
WRITER = """
import os
for number in range(3, 64):
    try:
        os.write(number, b'["", "status", 0]\\n')
    except OSError:
        pass
"""
FORKER = """
import os


def test_fork():
    if os.fork() == 0:
        return
    os.wait()
    os._exit(0)
"""
SKIPPER = """
def pytest_runtest_protocol(item, nextitem):
    return "half" in item.name or None
"""


@dataclass(frozen=True)
class Game:
    """What is tried, on which gate, and what comes of it."""

    gate: str
    change: Changes
    message: str


GAMES = {
    "tests deleted": Game(
        "tests", {"tests/test_app.py": None}, "tests are lost: 3 ran on the base, and 1 here"
    ),
    "one test deleted": Game(
        "tests", {"tests/test_app.py": TESTS[: TESTS.index("\n\ndef test_neg")]}, "tests are lost: 3 ran"
    ),
    "tests not collected": Game(
        "tests",
        {"app.py": WRONG, "conftest.py": "collect_ignore = ['tests/test_app.py']\n"},
        "tests are lost: 3 ran on the base, and 1 here",
    ),
    "test marked to be skipped": Game(
        "tests",
        {"tests/test_app.py": TESTS.replace("def test_half", "@pytest.mark.skip\ndef test_half")},
        "tests are lost: 3 ran on the base, and 2 here (1 skipped)",
    ),
    "test expected to fail": Game(
        "tests",
        {
            "app.py": WRONG,
            "tests/test_app.py": TESTS.replace("def test_half", "@pytest.mark.xfail\ndef test_half"),
        },
        "tests are lost: 3 ran on the base, and 2 here (1 expected to fail)",
    ),
    "exit in conftest": Game(
        "tests", {"conftest.py": "import sys\nsys.exit(0)\n"}, "the tests ended before their summary"
    ),
    "fake pytest": Game(
        "tests",
        {"app.py": WRONG, "pytest.py": "def main(*a, **k):\n    return 0\n", "pytest": "#!/bin/sh\n"},
        "1 of 3 tests failed",
    ),
    "python's own start": Game(
        "tests",
        {
            "app.py": WRONG,
            "sitecustomize.py": "import os\nos._exit(0)\n",
            "usercustomize.py": "import os\nos._exit(0)\n",
            "x.pth": "import os; os._exit(0)\n",
            "python3": "#!/bin/sh\nexit 0\n",
        },
        "1 of 3 tests failed",
    ),
    "report forged": Game("tests", {"app.py": WRONG + FORGER}, "the tests ended before their summary"),
    "report written into": Game(
        "tests",
        {"app.py": CODE + WRITER},
        "the tests cannot be believed: somebody else wrote into their report",
    ),
    "session run twice": Game(
        "tests", {"tests/test_fork.py": FORKER}, "the tests ended before their summary"
    ),
    "tests never run": Game(
        "tests",
        {
            "app.py": WRONG,
            "conftest.py": SKIPPER,
        },
        "the tests cannot be believed: 1 of 3 tests never came to their end",
    ),
    "runner's modules replaced": Game(
        "tests",
        {
            "app.py": WRONG,
            "conftest.py": "import sys\nsys.modules['_pytest'] = sys.modules['pytest'] = sys\n",
        },
        "the tests failed with exit status 3",
    ),
    "exit at the end": Game(
        "tests",
        {"app.py": WRONG + "\n\nimport atexit, os\natexit.register(os._exit, 0)\n"},
        "1 of 3 tests failed",
    ),
    "pragma over everything": Game(
        "coverage",
        {"app.py": UNTESTED.replace("-> int:", "-> int:  # pragma: no cover")},
        "coverage is 62.5 %, below 90 %: it would be",
    ),
    "omitted by its own configuration": Game(
        "coverage",
        {"app.py": UNTESTED, ".coveragerc": "[run]\nomit = *\n", "pyproject.toml": "[project]\nname = 'x'\n"},
        "coverage is 62.5 %, below 90 %",
    ),
    "types not checked": Game(
        "typecheck",
        {"app.py": "# mypy: ignore-errors\n" + CODE.replace("// 2", "/ 2")},
        "app.py:1 adds `# mypy: ignore-errors`, which silences typecheck for the whole file: take it out",
    ),
    "types ignored": Game(
        "typecheck",
        {"app.py": "# type: ignore\n" + CODE.replace("// 2", "/ 2")},
        "app.py:1 adds `# type: ignore`",
    ),
    "types by its own configuration": Game(
        "typecheck",
        {"app.py": CODE.replace("// 2", "/ 2"), "mypy.ini": "[mypy]\nignore_errors = true\n"},
        "typecheck failed",
    ),
    "style not checked": Game(
        "lint", {"app.py": "# ruff: noqa\nimport os\n" + CODE}, "app.py:1 adds `# ruff: noqa`"
    ),
    "style of nobody": Game(
        "lint",
        {"app.py": "import os\n" + CODE, ".gitignore": "*\n", "ruff.toml": "exclude = ['*']\n"},
        "lint failed with exit status 1",
    ),
    "build of its own": Game(
        "build",
        {"app.py": "def broken(:\n", "_build/backend.py": "def build_wheel(*a):\n    return 'x'\n"},
        "build failed with exit status 1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GAMES)
async def test_game_does_not_pay(judge: Judge, with_python_tools: Toolchain, name: str) -> None:
    game = GAMES[name]
    verdict = await judge(PROJECT, game.change, toolchain=with_python_tools, gate=game.gate, compared=True)
    assert not verdict.approved, verdict
    assert verdict.message.startswith(game.message), verdict


@pytest.mark.slow
async def test_keeper_of_the_books_cannot_be_read_by_what_it_counts(
    judge: Judge, with_python_tools: Toolchain
) -> None:
    verdict = await judge(PROJECT, {"tests/test_seek.py": SEEKER}, toolchain=with_python_tools)
    for place in ("mem", "environ", "fd"):
        assert f"REFUSED {place}" in verdict.output_tail, verdict


@pytest.mark.slow
async def test_hung_test_and_endless_output_are_bounded(judge: Judge, with_python_tools: Toolchain) -> None:
    change = {"tests/test_hang.py": "def test_hang():\n    while True:\n        pass\n"}
    verdict = await judge(PROJECT, change, toolchain=with_python_tools, deadline_s=6.0)
    assert verdict.message == "the tests did not end within 6 s"


@pytest.mark.slow
async def test_tests_are_counted_once_for_each_base(judge: Judge, with_python_tools: Toolchain) -> None:
    verdict = await judge(PROJECT, toolchain=with_python_tools, compared=True)
    assert (verdict.approved, verdict.tests, verdict.tests_base) == (True, 3, 3), verdict


@pytest.mark.slow
async def test_edit_of_the_gates_own_definition_is_named_in_its_evidence(
    judge: Judge, with_python_tools: Toolchain
) -> None:
    change = {"pytest.ini": "[pytest]\n", "README": "x", "pyproject.toml": PROJECT["pyproject.toml"] + "\n"}
    verdict = await judge(PROJECT, change, toolchain=with_python_tools)
    assert set(verdict.protected or ()) == {"pytest.ini"}
    verdict = await judge(PROJECT, change, toolchain=with_python_tools, gate="lint")
    assert set(verdict.protected or ()) == {"pyproject.toml"}
