"""Run a checkout's Python tests and report on them: the one module here that runs inside a sandbox.

`gates.python` hands its text to `python3 -I -c`, so it stands on the standard library of any Python 3.8.
The invariant: the runner is imported before anything of the checkout can be, its configuration is the
base's, and the report, which bears a secret that came on standard input, is written only after the last
test. Code under test shares this process and can do what it likes here; what it cannot do is to end early
and be taken for a success.
"""

# ruff: noqa: ANN401 - pytest's objects are known by what they do: it may be of any version
from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
import unittest
from pathlib import Path
from typing import Any

#: Files looked at, and bytes of each, to find out whether tests need pytest.
MAX_FILES = 2000
MAX_BYTES = 200_000
NEEDS_PYTEST = re.compile(rb"^[ \t]*(?:import|from) pytest\b|^(?:async )?def test_", re.MULTILINE)
MISSING = 127
UNHEALTHY = 3


def main() -> int:
    """Do as standard input says; return the exit status."""
    pytest_here = importlib.util.find_spec("pytest") is not None
    if not pytest_here:
        go_where_pytest_is()
    order = json.loads(sys.stdin.buffer.read())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    report = Report(order.pop("nonce"))
    root = Path.cwd()
    ours = root / order["ours"]
    sys.pycache_prefix = str(ours / "pycache")
    shutil.rmtree(ours, ignore_errors=True)
    if pytest_here:
        return run_pytest(report, root, order)
    if order["needs_pytest"] or any(map(needs_pytest, test_files(root))):
        complain("pytest is not installed for " + sys.executable)
        report.write(runner="pytest", missing="pytest")
        return MISSING
    return run_unittest(report, root)


def complain(text: str) -> None:
    """Say what keeps the tests from being run."""
    sys.stderr.write(f"orchestrator: {text}\n")


def go_where_pytest_is() -> None:
    """Become the interpreter that the `pytest` on PATH belongs to, where there is one."""
    script = shutil.which("pytest")
    text = getattr(sys, "orig_argv", [])
    if script is None or len(text) != 4:
        return
    with open(script, "rb") as file:  # noqa: PTH123
        first = file.readline(4096)
    interpreter = first[2:].decode(errors="replace").strip()
    if first.startswith(b"#!") and "python" in interpreter and os.access(interpreter, os.X_OK):
        os.execv(interpreter, [interpreter, *text[1:], "again"])  # noqa: S606


class Report:
    """The way back to the gate, apart from the streams that tests capture and replace."""

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce
        self._fd = os.dup(1)

    def write(self, **facts: object) -> None:
        """Write the facts, in one piece."""
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(self._fd, f"\n\x1e{self._nonce} {json.dumps(facts)}\n".encode())


# --- pytest ----------------------------------------------------------------------------------------------


def run_pytest(report: Report, root: Path, order: dict[str, Any]) -> int:
    """Run pytest on the checkout with the base's configuration."""
    pytest: Any = importlib.import_module("pytest")
    # Whatever the run imports late must not come from the checkout either.
    for name in ("_pytest.junitxml", "_pytest.terminal", "doctest", "pdb"):
        importlib.import_module(name)
    sys.path[:0] = [str(root), *([str(root / "src")] if (root / "src").is_dir() else [])]
    config = root / order["config"]["name"]
    config.unlink() if config.is_symlink() or config.is_file() else None
    config.write_text(order["config"]["text"], encoding="utf-8")
    watch = Watch()
    arguments = ["-c", str(config), "--rootdir", str(root), "--confcutdir", str(root)]
    arguments += ["-p", "no:cacheprovider", "--color=no"]
    try:
        status = int(pytest.main(arguments, plugins=[watching(pytest, watch)]))
    except (Exception, SystemExit) as error:  # whatever else a conftest raises ends without a report too
        complain(f"pytest was ended by {type(error).__name__}: {error}")
        report.write(runner="pytest", broken=type(error).__name__)
        return UNHEALTHY
    report.write(runner="pytest", status=status, **watch.counts, failures=sorted(watch.failures)[:20])
    return status


class Watch:
    """What our plugin has seen of a pytest run."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("ran", "skipped", "failed", "deselected"), 0)
        self.failures: set[str] = set()

    def failed(self, nodeid: str) -> None:
        """Note a failure of a test, or of loading tests."""
        self.counts["failed"] += 1
        self.failures.add(nodeid[:200])

    def outcome(self, report: Any) -> None:
        """Note one step of one test; a test that failed as expected has run."""
        if report.failed:
            self.failed(report.nodeid)
        if report.when == "call" and (not report.skipped or hasattr(report, "wasxfail")):
            self.counts["ran"] += 1
        elif report.skipped:
            self.counts["skipped"] += 1


def watching(pytest: Any, watch: Watch) -> Any:
    """Return a plugin that counts outcomes, and sees a failure before a conftest can call it a success."""

    class Plugin:
        @pytest.hookimpl(hookwrapper=True, tryfirst=True)  # type: ignore[untyped-decorator]
        def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
            raised = call.excinfo
            outcome = yield
            if (raised or call.excinfo) and outcome.get_result().outcome == "passed":
                watch.failures.add(item.nodeid[:200])

        @pytest.hookimpl(tryfirst=True)  # type: ignore[untyped-decorator]
        def pytest_runtest_logreport(self, report: Any) -> None:
            watch.outcome(report)

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                watch.failed(report.nodeid)

        def pytest_deselected(self, items: Any) -> None:
            watch.counts["deselected"] += len(items)

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


def run_unittest(report: Report, root: Path) -> int:
    """Run what unittest discovers from the top, and in test folders that are no packages."""
    sys.path[:0] = [str(root), *([str(root / "src")] if (root / "src").is_dir() else [])]
    try:
        suite = unittest.TestSuite([unittest.TestLoader().discover(".", pattern="test*.py")])
        for name in ("tests", "test"):
            if (root / name).is_dir() and not (root / name / "__init__.py").exists():
                suite.addTest(unittest.TestLoader().discover(name, pattern="test*.py"))
        result = unittest.TextTestRunner(stream=sys.stderr, verbosity=1).run(suite)
    except (Exception, SystemExit) as error:
        complain(f"unittest was ended by {type(error).__name__}: {error}")
        report.write(runner="unittest", broken=type(error).__name__)
        return UNHEALTHY
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    ran = result.testsRun - len(result.skipped)
    status = 0 if result.wasSuccessful() else 1
    report.write(
        runner="unittest", status=status, ran=max(0, ran), skipped=len(result.skipped), failed=failed
    )
    return status


if __name__ == "__main__":
    status = main()
    # Not by way of atexit: what the tests left there has no say any more.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
