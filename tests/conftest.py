"""What every test gets without asking: a leak check, an error log check, a private temporary directory."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import trio

from sandbox.base import SandboxError, User
from sandbox.image.from_host import write_image
from sandbox.podman import PodmanBackend
from tests.kit import leaks, skips
from tests.kit.error_log import ErrorLog

IN_CI = os.environ.get("CI") == "true"
TEMPORARY = pytest.StashKey[Path]()
SKIPS: list[tuple[str, str]] = []
#: tests that failed and were run anew (`--reruns`), each with how it had failed
UNSTEADY: list[tuple[str, str]] = []
#: More of them fail the run, however they end.
UNSTEADY_MOST = 3
ERRORS = ErrorLog()

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile("ci" if IN_CI else "local")


def pytest_configure(config: pytest.Config) -> None:
    """Make the run's own temporary directory, for its children too, and become the parent of all orphans."""
    # Root's TMPDIR may lie where the user that agents run as cannot go.
    parent = "/tmp" if os.getuid() == 0 else None
    temporary = Path(tempfile.mkdtemp(prefix="orc-", dir=parent))
    temporary.chmod(0o755)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        if (
            signal.getsignal(number) is signal.SIG_IGN
        ):  # as nohup and background shells leave it, to all children
            signal.signal(number, signal.SIG_DFL)
    config.stash[TEMPORARY] = temporary
    leaks.adopt_orphans()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the run's temporary directory."""
    shutil.rmtree(config.stash[TEMPORARY], ignore_errors=True)
    tempfile.tempdir = None


def note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Remember a skip and its reason; an expected failure is no skip."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        SKIPS.append((report.nodeid, reason.removeprefix("Skipped: ")))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a skipped test, and one that is run anew."""
    note_skip(report)
    if report.outcome == "rerun":  # type: ignore[comparison-overlap] - the plugin's own word
        UNSTEADY.append((report.nodeid, report.longreprtext))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note a skipped module."""
    note_skip(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run under CI that skipped what is not on the list, or that ran too many tests anew."""
    refused = unlisted_skips() or len(UNSTEADY) > UNSTEADY_MOST
    if IN_CI and session.exitstatus == pytest.ExitCode.OK and refused:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the skips that fail the run, and show how each test failed that was run anew."""
    if IN_CI and (lines := unlisted_skips()):
        terminalreporter.section("skips that tests/allowed-skips.txt does not name", red=True)
        for line in lines:
            terminalreporter.line(line)
    for test, failure in UNSTEADY:
        terminalreporter.section(f"failed, and was run anew: {test}", yellow=True)
        terminalreporter.line(failure)


def unlisted_skips() -> list[str]:
    """Return this run's skips that the list does not name."""
    return skips.unlisted(SKIPS, skips.read_patterns(skips.LIST.read_text()))


@pytest.fixture(autouse=True)
def _nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    temporary = request.config.stash[TEMPORARY]
    before = leaks.photograph(temporary)
    yield
    # Compared first: the common case must cost nothing but two photographs.
    if leaks.photograph(temporary) != before and (found := leaks.describe(before, temporary)):
        pytest.fail("the test left behind:\n  " + "\n  ".join(found), pytrace=False)


@pytest.fixture(autouse=True)
def error_log() -> Iterator[ErrorLog]:
    """Errors logged by this test; one that it does not `take` fails it."""
    root = logging.getLogger()
    ERRORS.lines = []
    root.addHandler(ERRORS)  # each time: code under test may configure logging anew
    yield ERRORS
    root.removeHandler(ERRORS)
    if ERRORS.lines:
        pytest.fail(
            "errors were logged that the test did not take:\n  " + "\n  ".join(ERRORS.lines), pytrace=False
        )


@pytest.fixture(scope="session")
def ordinary_user() -> User:
    """Return the user that agents run as here: `nobody` for root, else ourselves."""
    if os.getuid() != 0:
        return User(os.getuid(), os.getgid(), str(os.getuid()))  # it may have no name
    nobody = pwd.getpwnam("nobody")
    return User(nobody.pw_uid, nobody.pw_gid, nobody.pw_name)


@pytest.fixture(scope="session")
def containers(ordinary_user: User) -> Iterator[PodmanBackend | str]:
    """Return the podman backend with an image of this host's programs, or why it does not work here.

    The archive that the image came from is `agent.tar` below its root.
    """
    with tempfile.TemporaryDirectory(prefix="podman-") as name:
        root = Path(name)
        root.chmod(0o711)
        try:
            backend = PodmanBackend(ordinary_user, f"docker-archive:{root}/agent.tar", root)
            write_image(root / "agent.tar")
            trio.run(backend.fetch_image)
        except SandboxError as error:
            yield f"podman does not work here: {error}"
            return
        yield backend
        trio.run(backend.discard_images)


@pytest.fixture
def reachable_path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return an empty directory that every user may enter (`tmp_path` is for its owner alone)."""
    path = Path(tempfile.mkdtemp(prefix="t-", dir=request.config.stash[TEMPORARY]))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
