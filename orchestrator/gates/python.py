"""How Python projects are tested: by pytest where it is installed or needed, else by unittest.

The gates `tests`, `integration` and `coverage`; the invariant: the runner comes from the toolchain and its
configuration from the base. Caller: `gates.local`.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

from orchestrator.gates.additions import Additions, commented
from orchestrator.gates.definition import KIND_OF, MIN_COVERAGE, OURS, Base, Definition, Unrunnable
from orchestrator.gates.python_checks import find_build, find_lint, find_typecheck
from orchestrator.gates.python_config import COVERAGE, PYTEST, Config, find_config, mentions, program

_MARKS = frozenset({*(name for name, _ in PYTEST), "setup.py", "conftest.py"})
_TEST_FILE = re.compile(r"test_.*\.py|.*_test\.py")
#: Marks of other languages, whose projects have folders of tests too.
_OTHERS = frozenset({"package.json", "go.mod", "Cargo.toml", "pom.xml"})
_FAIL_UNDER = re.compile(r"--cov-fail-under[= \t\"',]{1,9}(\d{1,3}(?:\.\d{1,6})?)")
_COV = re.compile(r"--cov[= \t\"',]{1,9}([A-Za-z_][\w./-]{0,200})")
#: What is no code to be tested, where the base does not say what is.
_OMIT = (
    "tests/*",
    "test/*",
    "*/tests/*",
    "test_*.py",
    "*_test.py",
    "conftest.py",
    "*/conftest.py",
    "setup.py",
)
_PROGRAM = Path(__file__).with_name("work_python.py")


async def find_python(base: Base, gate: str) -> Definition | None:
    """Return how a gate is run on a Python project, or None where the base is none or has nothing to run."""
    present = set(base.names)
    tested = any(_TEST_FILE.fullmatch(name) for name in present)
    folders = present & {"tests", "test"} and not present & _OTHERS
    checks = {"typecheck": find_typecheck, "lint": find_lint, "build": find_build}
    if gate in checks:
        return await checks[gate](base)
    if gate not in KIND_OF or not (present & _MARKS or tested or folders):
        return None
    config = await find_config(base, PYTEST)
    order: dict[str, Any] = {"arguments": [], "paths": []}
    sources: tuple[str, ...] = config.sources if config else ("pytest.toml", "pytest.ini", ".pytest.ini")
    shown: tuple[str, ...] = ("python3", "-m", "pytest")
    minimum = None
    if gate == "integration":
        if (chosen := await _integration(base, config)) is None:
            return None
        order |= chosen
        shown = (*shown, *chosen["arguments"], *chosen["paths"])
    if gate == "coverage":
        found = await find_config(base, COVERAGE)
        if found is None and not await mentions(base, ("pytest-cov", "coverage")):
            return None
        minimum = _bar(config, found)
        order["coverage"] = _measure(config, found)
        sources += found.sources if found else (".coveragerc",)
        shown = ("python3", "-m", "coverage", "run", "-m", "pytest")
    return _definition(gate, base, config, order, shown=shown, sources=sources, minimum=minimum)


def _definition(
    gate: str,
    base: Base,
    config: Config | None,
    order: dict[str, Any],
    *,
    shown: tuple[str, ...],
    sources: tuple[str, ...],
    minimum: float | None,
) -> Definition:
    nonce = secrets.token_hex(16)
    name, text = (config.name, config.text) if config else ("pytest.ini", "[pytest]\n")
    # pytest reads its own table only in a file of this very name. The candidate's pyproject.toml stays in
    # place for all that is not pytest's.
    own = name.endswith("pytest.toml")
    renamed = name if own else Config(name, text, PYTEST).renamed(nonce)
    order |= {
        "nonce": nonce,
        "ours": OURS,
        "program": _PROGRAM.read_text(encoding="utf-8"),
        "config": {"name": renamed, "text": text},
        "needs_pytest": config is not None or "conftest.py" in base.names,
    }
    return Definition(
        shown=shown,
        argv=("python3", "-I", "-S", "-c", program("launch_python")),
        stdin=json.dumps(order).encode(),
        nonce=nonce,
        counted=True,
        kind=KIND_OF[gate],
        minimum=minimum,
        sources=sources,
        amend=_tell_added if gate == "coverage" else None,
        amended_by=("*.py",),
    )


def _tell_added(stdin: bytes, added: Additions) -> bytes:
    """Tell the launcher the lines that the candidate adds: an exclusion on one of them does not count."""
    order = json.loads(stdin)
    order["coverage"]["added"] = commented(added)
    return json.dumps(order).encode()


async def _integration(base: Base, config: Config | None) -> dict[str, list[str]] | None:
    """Return what of the tests is the integration's: a folder, or what bears the mark."""
    for folder in ("tests", "test"):
        if folder in base.names and "integration" in await base.names_in(folder):
            return {"paths": [f"{folder}/integration"], "arguments": []}
    text = str(
        config.values("pytest", "tool.pytest.ini_options", "tool.pytest", "tool:pytest") if config else ""
    )
    if re.search(r"['\"\n\\n \[]integration\b", text) and "markers" in text:
        return {"paths": [], "arguments": ["-m", "integration"]}
    return None


def _bar(config: Config | None, found: Config | None) -> float:
    """Return the project's own bar where it is higher than ours."""
    bars = [MIN_COVERAGE]
    if config is not None:
        bars += [float(number) for number in _FAIL_UNDER.findall(config.text)]
    if found is not None:
        told = found.values("coverage:report", "report", "tool.coverage.report").get("fail_under", 0)
        try:
            bars.append(float(told))
        except (TypeError, ValueError):
            raise Unrunnable(f"{found.name} in the base commit: fail_under is no number") from None
    return min(100.0, max(bars))


def _measure(config: Config | None, found: Config | None) -> dict[str, Any]:
    """Return what of the code is measured, as the launcher takes it."""
    mark = secrets.token_hex(4)
    named = _COV.findall(config.text) if config else []
    return {
        "config": {"name": f"{found.renamed(mark)}", "text": found.text} if found else None,
        "source": named or ["."],
        "omit": list(_OMIT),
        "added": {},
    }
