"""The checks that stand around every test can fail: leaks, unasserted errors, unlisted skips."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.kit import leaks, measured, skips
from tests.kit.error_log import ErrorLog
from tests.kit.processes import fresh_mark, marked
from tests.kit.until import until


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    except OSError:
        return ""


def test_double_forked_process_in_its_own_session_is_found_and_ended() -> None:
    temporary = Path(tempfile.gettempdir())
    before = leaks.photograph(temporary)
    env = {**os.environ, "MARK": (mark := fresh_mark("orphan"))}
    subprocess.run(["sh", "-c", "(setsid sleep 3600 >/dev/null 2>&1 &)"], check=True, env=env)
    until(lambda: [_command(pid) for pid in marked(mark)] == ["sleep"], "only the orphan is left")
    settle_s, leaks.SETTLE_S = leaks.SETTLE_S, 0.1
    try:
        found = leaks.describe(before, temporary)
    finally:
        leaks.SETTLE_S = settle_s
    assert len(found) == 1
    assert "sleep 3600" in found[0]
    assert leaks.photograph(temporary) == before


def test_open_descriptor_is_found() -> None:
    temporary = Path(tempfile.gettempdir())
    before = leaks.photograph(temporary)
    reader, writer = os.pipe()
    found = leaks.describe(before, temporary)
    os.close(reader)
    os.close(writer)
    assert [line.split(":")[0].rsplit(" ", 1)[1] for line in found] == ["pipe", "pipe"]


def test_leftover_directory_is_found() -> None:
    temporary = Path(tempfile.gettempdir())
    before = leaks.photograph(temporary)
    directory = tempfile.mkdtemp()
    found = leaks.describe(before, temporary)
    Path(directory).rmdir()
    assert found == [f"temporary file {directory}"]


def test_mount_is_found(reachable_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root")
    temporary = Path(tempfile.gettempdir())
    before = leaks.photograph(temporary)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", reachable_path], check=False).returncode == 0
    if not mounted:
        pytest.skip("needs root that may mount")
    found = leaks.describe(before, temporary)
    subprocess.run(["umount", reachable_path], check=True)
    assert found == [f"mount on {reachable_path}"]


def test_expected_error_is_taken(error_log: ErrorLog) -> None:
    logging.getLogger("room").error("the disk is full")
    assert error_log.take("disk is full") == ["room: the disk is full"]
    assert not error_log.lines


def test_error_that_was_never_logged_cannot_be_taken(error_log: ErrorLog) -> None:
    with pytest.raises(AssertionError, match="no error was logged"):
        error_log.take("disk")


def test_skip_is_listed_by_pattern_and_else_named() -> None:
    patterns = skips.read_patterns("# why\n\nneeds root\\b\n")
    asked = [("tests/a.py::test_b", "needs root"), ("tests/a.py::test_c", "no podman here")]
    assert skips.unlisted(asked, patterns) == ["tests/a.py::test_c: no podman here"]


BAD = """
import logging, os, tempfile, pytest
def test_leak(): tempfile.mkdtemp()
def test_error(): logging.getLogger("x").error("oh")
def test_good(): pass
"""
SKIPPED = """
import pytest
def test_skip(): pytest.skip("because")
def test_good(): pass
"""
UNSTEADY = """
import pytest
SEEN = set()
@pytest.mark.parametrize("number", range(%d))
def test_unsteady(number):
    first = number not in SEEN
    SEEN.add(number)
    assert not first, "only at first"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "ci", "status", "said"),
    [
        (BAD, "", 1, ["temporary file", "x: oh", "3 passed, 2 errors"]),
        (UNSTEADY % 1, "", 1, ["1 failed"]),
        (UNSTEADY % 3, "true", 0, ["failed, and was run anew: ", "only at first", "3 passed, 3 rerun"]),
        (UNSTEADY % 4, "true", 1, ["4 passed, 4 rerun"]),
        (SKIPPED, "", 0, ["1 passed, 1 skipped"]),
        (SKIPPED, "true", 1, ["does not name", "test_skip: because"]),
    ],
)
def test_run_fails_by_its_own_checks(
    tmp_path: Path, text: str, ci: str, status: int, said: list[str]
) -> None:
    root = Path(__file__).parents[1]
    (tmp_path / "test_it.py").write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "-c",
        "pyproject.toml",
        *(["--reruns=1"] if ci else []),
    ]
    done = subprocess.run(
        [*command, f"--rootdir={root}", str(tmp_path / "test_it.py")],
        cwd=root,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    assert all(part in done.stdout for part in said), done.stdout


def test_wait_for_the_world_outside_ends_with_an_answer_or_with_what_was_missed() -> None:
    answers = iter([0, 0, 7])
    assert until(lambda: next(answers), "a number") == 7
    with pytest.raises(AssertionError, match=r"not within 0\.02 s: the moon"):
        until(lambda: False, "the moon", within_s=0.02)


def test_files_whose_services_are_measured_exist() -> None:
    root = Path(__file__).parents[1]
    assert [file for file in measured.FILES if not (root / file).is_file()] == []
