"""How Python projects are tested: by pytest where it is installed or needed, else by unittest.

The invariant: the runner comes from the toolchain and its configuration from the base. Caller: `gates.local`.
"""

from __future__ import annotations

import json
import re
import secrets
import tomllib
from pathlib import Path

from orchestrator.gates.definition import OURS, Base, Definition, Unrunnable

#: Where pytest looks for its configuration, in its own order; the named files need not even have a section.
_CONFIGS = (
    "pytest.toml",
    ".pytest.toml",
    "pytest.ini",
    ".pytest.ini",
    "pyproject.toml",
    "tox.ini",
    "setup.cfg",
)
_MARKS = frozenset({*_CONFIGS, "setup.py", "conftest.py"})
_TEST_FILE = re.compile(r"test_.*\.py|.*_test\.py")
#: Marks of other languages, whose projects have folders of tests too.
_OTHERS = frozenset({"package.json", "go.mod", "Cargo.toml"})
_LAUNCHER = Path(__file__).with_name("launch_python.py")


async def find_python(base: Base, gate: str) -> Definition | None:
    """Return how a gate is run on a Python project, or None where the base is none or has nothing to run."""
    if gate != "tests":
        return None
    present = set(base.names)
    tested = any(_TEST_FILE.fullmatch(name) for name in present)
    folders = present & {"tests", "test"} and not present & _OTHERS
    if not (present & _MARKS or tested or folders):
        return None
    nonce = secrets.token_hex(16)
    found = await _configuration(base)
    # A name of its own in the same folder: paths in the configuration are relative to its file, and the
    # candidate's pyproject.toml stays in place for all that is not pytest's.
    name, text = found or ("pytest.ini", "[pytest]\n")
    order = {
        "nonce": nonce,
        "ours": OURS,
        "config": {"name": _renamed(name, nonce), "text": text},
        "needs_pytest": found is not None or "conftest.py" in present,
    }
    return Definition(
        shown=("python3", "-m", "pytest"),
        argv=("python3", "-I", "-c", _LAUNCHER.read_text(encoding="utf-8")),
        stdin=json.dumps(order).encode(),
        nonce=nonce,
        counted=True,
    )


def _renamed(name: str, nonce: str) -> str:
    if name.endswith("pytest.toml"):
        return name  # pytest reads its own table only in a file of this very name
    return f".orchestrator-{nonce[:8]}{Path(name).suffix}"


async def _configuration(base: Base) -> tuple[str, str] | None:
    """Return the name and text of the file that configures pytest in the base."""
    for name in _CONFIGS:
        if name not in base.names or (content := await base.read(name)) is None:
            continue
        try:
            text = content.decode()
            if _configures(name, text):
                return name, text
        except ValueError as error:  # neither UTF-8 nor TOML
            raise Unrunnable(f"{name} in the base commit cannot be read: {error}") from error
    return None


def _configures(name: str, text: str) -> bool:
    if name.endswith(("pytest.toml", "pytest.ini")):
        return True
    if name == "pyproject.toml":
        return "pytest" in tomllib.loads(text).get("tool", {})
    section = "pytest" if name == "tox.ini" else "tool:pytest"
    return re.search(rf"^\[{section}\]", text, re.MULTILINE) is not None
