"""An environment that leads to the checkout, as of a project installed to be edited, lets none of it in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gates.conftest import CHECKERS, PYTEST, SYSTEM_PYTHON, Judge, Toolchain, python_with

PROJECT = {
    "pyproject.toml": '[tool.mypy]\nstrict = true\nfiles = ["src"]\n[tool.pytest.ini_options]\n'
    '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    "backend.py": "import runpy, zipfile\n\n\ndef build_wheel(place, *_):\n    runpy.run_path('setup.py')\n"
    "    with zipfile.ZipFile(place + '/a.whl', 'w') as file:\n        file.writestr('app.py', '')\n"
    "    return 'a.whl'\n",
    "setup.py": "",
    "src/app.py": "def f() -> int:\n    return 1\n",
    "tests/test_app.py": "import app\n\n\ndef test_f() -> None:\n    assert app.f() == 1\n",
}
BROKEN = {"src/app.py": "def f() -> int:\n    return 'x'\n", "setup.py": "raise ValueError\n"}
#: The end of the process in the place of the tool; `orjson` is what mypy only tries to import.
EXIT = "import os\nprint('taken over')\nos._exit(0)\n"


@pytest.fixture(scope="session")
def edited(shared_path: Path) -> Toolchain:
    """Return an environment in which the project of the checkout is installed to be edited."""
    if not SYSTEM_PYTHON.exists():
        pytest.skip(f"{SYSTEM_PYTHON} is missing")
    found = python_with(shared_path / "edited", (*PYTEST, *CHECKERS))
    (root,) = found.read_only
    (target,) = root.glob("lib/python*/site-packages")
    (target / "__editable__.app.pth").write_text("/workspace/src\n")
    script = root / "bin/mypy"
    script.write_text(
        f"#!{root}/bin/python3\nimport sys\nfrom mypy.__main__ import console_entry\n"
        "sys.exit(console_entry())\n"
    )
    script.chmod(0o755)
    return found


@pytest.mark.parametrize("gate", ["tests", "typecheck", "build"])
@pytest.mark.parametrize("name", ["sitecustomize", "usercustomize", "orjson"])
async def test_modules_of_the_candidate_are_not_run_in_the_place_of_a_tool(
    judge: Judge, edited: Toolchain, gate: str, name: str
) -> None:
    game = {f"src/{name}.py": EXIT}
    sound = await judge(PROJECT, game, toolchain=edited, gate=gate)
    assert sound.approved, sound
    broken = await judge(PROJECT, {**BROKEN, **game}, toolchain=edited, gate=gate)
    assert not broken.approved, broken
    assert "taken over" not in (broken.output_tail or "")


@pytest.mark.parametrize("how", ["import sys\nsys.exit(0)\n", "import os\nos._exit(0)\n"])
async def test_setup_that_exits_has_built_nothing(judge: Judge, edited: Toolchain, how: str) -> None:
    verdict = await judge(PROJECT, {"setup.py": how}, toolchain=edited, gate="build")
    assert not verdict.approved, verdict
    assert "the build ended without a wheel" in (verdict.output_tail or "")
