"""Run a checkout's Python tests and tell the parent what happens: the program of `launch_python`'s child.

It runs inside a sandbox and stands on the standard library of any Python 3.8. The invariant: the runner is
imported before anything of the checkout can be, and its configuration is the base's. Code under test shares
this process and can do what it likes here; what it cannot do is to end early and be taken for a success.
"""

# ruff: noqa: ANN401 - pytest's objects are known by what they do: it may be of any version
from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import sys
import tokenize
import unittest
from contextlib import suppress
from pathlib import Path
from typing import Any

#: Files looked at, and bytes of each, to find out whether tests need pytest.
MAX_FILES = 2000
MAX_BYTES = 200_000
NEEDS_PYTEST = re.compile(rb"^[ \t]*(?:import|from) pytest\b|^(?:async )?def test_", re.MULTILINE)
MISSING = 127
UNHEALTHY = 3


def complain(text: str) -> None:
    """Say what keeps the tests from being run."""
    sys.stderr.write(f"orchestrator: {text}\n")
    sys.stderr.flush()


def work(order: dict[str, Any], book: int) -> int:
    """Run what the parent orders and tell it what happens; return the exit status."""
    tell = teller(book, order.pop("key"))
    root = Path.cwd()
    ours = root / order["ours"]
    sys.pycache_prefix = str(ours / "pycache")
    if ours.is_symlink():
        ours.unlink()
    shutil.rmtree(ours, ignore_errors=True)
    try:
        status = run(tell, root, order)
    except (Exception, SystemExit) as error:  # whatever else a conftest raises ends without a word too
        complain(f"the tests were ended by {type(error).__name__}: {error}")
        tell("broken", type(error).__name__)
        status = UNHEALTHY
    sys.stdout.flush()
    sys.stderr.flush()
    return status  # not by way of atexit: what the tests left there has no say any more


def teller(book: int, key: str) -> Any:
    """Return a function that writes one line into the parent's book, from this process alone."""
    own = os.getpid()

    def tell(*said: object) -> None:
        if os.getpid() == own:
            os.write(book, json.dumps([key, *said]).encode() + b"\n")

    return tell


def run(tell: Any, root: Path, order: dict[str, Any]) -> int:
    """Run the tests by pytest, or by unittest where pytest is neither there nor needed."""
    measured = order.get("coverage")
    if measured is not None and importlib.util.find_spec("coverage") is None:
        return not_installed(tell, "coverage")
    if importlib.util.find_spec("pytest") is not None:
        runner: Any = PytestRun(tell, root, order)
    elif order["needs_pytest"] or any(map(needs_pytest, test_files(root))):
        return not_installed(tell, "pytest")
    else:
        runner = UnittestRun(tell, root, order)
    measure = Measure(root, measured) if measured is not None else None
    sys.path[:0] = [str(root), *([str(root / "src")] if (root / "src").is_dir() else [])]
    sys.path += order["left"]  # where the environment leads to the checkout
    status = runner.run()
    if measure is not None:
        for word, number in measure.end().items():
            tell(word, number)
    tell("status", status)
    return int(status)


def not_installed(tell: Any, tool: str) -> int:
    """Say that a tool is missing; return the exit status for that."""
    complain(f"{tool} is not installed for {sys.executable}")
    tell("missing", tool)
    return MISSING


def place(root: Path, config: dict[str, str]) -> Path:
    """Write a configuration of the base beside the candidate's; return where."""
    path = root / config["name"]
    path.unlink() if path.is_symlink() or path.is_file() else None
    path.write_text(config["text"], encoding="utf-8")
    return path


class Measure:
    """What of the code the tests reach, by the base's settings."""

    def __init__(self, root: Path, order: dict[str, Any]) -> None:
        coverage: Any = importlib.import_module("coverage")
        self._root = root
        self._added = order["added"]
        options: dict[str, Any] = {"data_file": None, "config_file": False}
        if order["config"] is not None:
            options["config_file"] = str(place(root, order["config"]))
        self._coverage = coverage.Coverage(**options)
        if not (self._coverage.get_option("run:source") or self._coverage.get_option("run:source_pkgs")):
            self._coverage.set_option("run:source", order["source"])
            if not self._coverage.get_option("run:omit"):
                self._coverage.set_option("run:omit", order["omit"])
        self._nothing = coverage.CoverageException
        self._coverage.start()

    def end(self) -> dict[str, float]:
        """Return the share of code reached, and what it was by the exclusions that the candidate added."""
        self._coverage.stop()
        claimed = self._total()
        for name, lines in self._added.items():
            path = self._root / name
            # What cannot be read has no exclusions either.
            with suppress(OSError, ValueError):
                if path.is_file() and not path.is_symlink():
                    path.write_text(without_comments(path.read_text(encoding="utf-8"), set(lines)), "utf-8")
        return {"coverage": self._total(), "claimed": claimed}

    def _total(self) -> float:
        try:
            return float(self._coverage.report(file=io.StringIO()))
        except self._nothing:  # no data
            return 0.0


def without_comments(text: str, lines: set[int]) -> str:
    """Return a source without the comments on these lines."""
    rows = text.splitlines(keepends=True)
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT and token.start[0] in lines:
                row, column = token.start
                rows[row - 1] = rows[row - 1][:column].rstrip() + "\n"
    except (tokenize.TokenError, SyntaxError, IndexError):
        return text
    return "".join(rows)


# --- pytest ----------------------------------------------------------------------------------------------


class PytestRun:
    """A run of pytest with the base's configuration; pytest is imported before the checkout can be."""

    def __init__(self, tell: Any, root: Path, order: dict[str, Any]) -> None:
        self._pytest: Any = importlib.import_module("pytest")
        # Whatever the run imports late must not come from the checkout either.
        for name in ("_pytest.junitxml", "_pytest.terminal", "doctest", "pdb"):
            importlib.import_module(name)
        self._tell = tell
        config = place(root, order["config"])
        arguments = ["-c", str(config), "--rootdir", str(root), "--confcutdir", str(root)]
        arguments += ["-p", "no:cacheprovider", "--color=no", *order["arguments"]]
        if order.get("coverage") is not None:
            if importlib.util.find_spec("pytest_cov") is not None:
                arguments.append("--no-cov")
            if importlib.util.find_spec("xdist") is not None:
                arguments += ["-n", "0"]
        self._arguments = [*arguments, *order["paths"]]

    def run(self) -> int:
        """Run the tests; return pytest's exit status."""
        self._tell("runner", "pytest")
        return int(self._pytest.main(self._arguments, plugins=[watching(self._pytest, self._tell)]))


def watching(pytest: Any, tell: Any) -> Any:
    """Return a plugin that tells outcomes, and sees a failure before a conftest can call it a success."""

    class Plugin:
        @pytest.hookimpl(hookwrapper=True, tryfirst=True)  # type: ignore[untyped-decorator]
        def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
            raised = call.excinfo
            outcome = yield
            if (raised or call.excinfo) and outcome.get_result().outcome == "passed":
                tell("failed", item.nodeid[:200])

        @pytest.hookimpl(tryfirst=True)  # type: ignore[untyped-decorator]
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed:
                tell("failed", report.nodeid[:200])
            ran = report.when == "call" and (not report.skipped or hasattr(report, "wasxfail"))
            outcome = "ran" if not report.skipped else "xfailed" if ran else "skipped"
            tell("test", report.nodeid[:4000], report.when, outcome)

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                tell("failed", report.nodeid[:200])

        def pytest_deselected(self, items: Any) -> None:
            tell("deselected", len(items))

        @pytest.hookimpl(trylast=True)  # type: ignore[untyped-decorator]
        def pytest_collection_finish(self, session: Any) -> None:
            tell("selected", len({item.nodeid[:4000] for item in session.items}))

    return Plugin()


# --- unittest --------------------------------------------------------------------------------------------


def test_files(root: Path) -> list[Path]:
    """Return the files that look like tests, within reason."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name[0] != "." and name != "node_modules"]
        found += [Path(folder, name) for name in files if re.fullmatch(r"test.*\.py|.*_test\.py", name)]
        if len(found) > MAX_FILES:
            break
    return found[:MAX_FILES]


def needs_pytest(path: Path) -> bool:
    """Return whether a test file is written for pytest."""
    try:
        with path.open("rb") as file:
            return NEEDS_PYTEST.search(file.read(MAX_BYTES)) is not None
    except OSError:
        return False


class UnittestRun:
    """A run of what unittest discovers from the top, and in test folders that are no packages."""

    def __init__(self, tell: Any, root: Path, order: dict[str, Any]) -> None:
        self._tell = tell
        self._root = root
        self._places = order["paths"]

    def run(self) -> int:
        """Run the tests; return 0 where all passed."""
        tell = self._tell
        tell("runner", "unittest")
        result = unittest.TextTestRunner(stream=sys.stderr, verbosity=1).run(self._suite())
        failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
        ran = max(0, result.testsRun - len(result.skipped))
        expected = len(result.expectedFailures)
        skipped = len(result.skipped)
        tell("counts", {"ran": ran, "skipped": skipped, "xfailed": expected, "failed": failed})
        return 0 if result.wasSuccessful() else 1

    def _suite(self) -> unittest.TestSuite:
        load = unittest.TestLoader().discover
        if self._places:
            return unittest.TestSuite([load(place, pattern="test*.py") for place in self._places])
        suite = unittest.TestSuite([load(".", pattern="test*.py")])
        for name in ("tests", "test"):
            if (self._root / name).is_dir() and not (self._root / name / "__init__.py").exists():
                suite.addTest(unittest.TestLoader().discover(name, pattern="test*.py"))
        return suite
