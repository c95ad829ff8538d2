"""The demo keeps its promises and leaves nothing, however it ends.

That no process, mount or file is left is checked around every test by `tests/conftest.py`: the test run
adopts orphans, and the demo's directory lies in the test run's own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.__main__ import main
from orchestrator.demo.play import Play, Seen
from orchestrator.demo.project import ADA, BEN, CAST, CYD
from tests.kit.measured import measured

ROOT = Path(__file__).parents[2]
KEPT = ("PATH", "TMPDIR")


@contextmanager
def playing(*prefix: str, options: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """Start the demo as a person would, in a session of its own."""
    environment = {**{name: os.environ[name] for name in KEPT if name in os.environ}, **measured("demo")}
    with subprocess.Popen(
        [*prefix, sys.executable, "-m", "orchestrator", "demo", *options],
        env={**environment, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        try:
            yield demo
        finally:
            demo.kill()


def read_until(demo: subprocess.Popen[str], words: str) -> str:
    """Read what the demo prints up to a line with these words, and return it all."""
    assert demo.stdout
    seen = ""
    for line in demo.stdout:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"never {words!r}: {seen}")


@pytest.mark.timeout(180)
def test_three_agents_land_are_corrected_and_are_killed() -> None:
    with playing() as demo:
        out, err = demo.communicate(timeout=150)
    assert (demo.returncode, err) == (0, ""), out
    assert "\x1b" not in out
    for line in (
        "ada  COMPLETED",
        "ben  gate tests REJECTED the tests failed with exit status 1",
        "not ok 1 - greets by name: got 'HELLO, ADA!', not 'Hello, Ada!'",
        "ben  COMPLETED",
        "cyd  KILLED",
        "0 remaining",
        "agent/farewell",
        "agent/louder",
        "Task: farewell",
        "by Orchestrator <orchestrator@localhost>",
        '+echo "Goodbye, ${1:-world}!"',
    ):
        assert line in out, line
    assert out.splitlines()[-1].startswith("Gone: 0 processes, 0 mounts, no socket and no directory")


@pytest.mark.timeout(180)
def test_json_is_one_document_about_the_whole() -> None:
    with playing(options=("--json",)) as demo:
        out, err = demo.communicate(timeout=150)
    assert (demo.returncode, err) == (0, "")
    found = json.loads(out)
    assert (found["ok"], found["failure"], found["left"]) == (True, None, [])
    assert [agent["name"] for agent in found["agents"]] == ["ada", "ben", "cyd"]
    assert [agent["rejections"] for agent in found["agents"]] == [0, 1, 0]
    assert (found["kill"]["status"], found["kill"]["remaining"]) == ("killed", 0)
    assert [(branch["branch"], branch["commits"]) for branch in found["landed"]] == [
        ("agent/farewell", 1),
        ("agent/louder", 1),
    ]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("moment", ["supervisor ", "ada  running", "ben  gate tests REJECTED"])
def test_interrupt_clears_the_stage(moment: str) -> None:
    with playing() as demo:
        read_until(demo, moment)
        demo.send_signal(signal.SIGINT)
        demo.send_signal(signal.SIGINT)  # an impatient second one does not cut the clearing
        out, err = demo.communicate(timeout=60)
    assert (demo.returncode, err) == (130, "")
    assert "interrupted by SIGINT; 0 processes, 0 mounts, no socket and no directory of it is left" in out


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_being_ended_clears_the_stage(number: signal.Signals) -> None:
    with playing() as demo:
        read_until(demo, "cyd  running")
        demo.send_signal(number)
        _, err = demo.communicate(timeout=60)
    assert (demo.returncode, err) == (128 + number, "")


@pytest.mark.timeout(120)
def test_reader_that_leaves_clears_the_stage() -> None:
    with playing() as demo:
        read_until(demo, "ada  running")
        assert demo.stdout
        assert demo.stderr
        demo.stdout.close()
        assert demo.stderr.read() == ""
        assert demo.wait(60) == 141


@pytest.mark.timeout(120)
def test_supervisor_that_dies_fails_the_demo_with_its_log() -> None:
    with playing() as demo:
        read_until(demo, "ada  running")
        (supervisor,) = children(demo.pid)
        os.kill(supervisor, signal.SIGKILL)
        out, err = demo.communicate(timeout=60)
    assert demo.returncode == 1, out
    assert "the end of the supervisor's log:" in err
    assert "the demo failed: " in err


def children(pid: int) -> list[int]:
    """Return the children of a process whose command line is the supervisor's."""
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in found if b"serve" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_supervisor_that_does_not_start_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert main(["demo"]) == 1
    assert "the demo failed: the supervisor ended with exit status 1" in capsys.readouterr().err
    assert main(["demo", "--json"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["ok"] is False
    assert json.loads(told.err)["code"] == "demo_failed"


@pytest.mark.timeout(180)
def test_without_bubblewrap_it_says_so_aloud_and_plays_on() -> None:
    hidden = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount --bind /dev/null "$(command -v bwrap)"; exec "$@"',
        "sh",
    )
    if os.getuid() != 0 or subprocess.run([*hidden, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root and a mount namespace")
    with playing(*hidden) as demo:
        out, err = demo.communicate(timeout=150)
    assert (demo.returncode, err) == (0, "")
    assert "NO SANDBOX WORKS HERE" in out
    assert "apt install bubblewrap" in out
    assert "ada  running             command agent in a process sandbox" in out


def test_what_was_not_as_promised_is_named() -> None:
    stage: Any = SimpleNamespace()
    play = Play(stage, stage, {role.name: Seen(role, role.name, "mark") for role in CAST})
    assert len(play.check()) == 7
    ended = {"type": "agent.completed", "data": {"reason": "done"}}
    play.cast[ADA.name].end = play.cast[BEN.name].end = ended
    play.cast[CYD.name].end = {"type": "agent.killed", "data": {"reason": "operator"}}
    play.cast[BEN.name].events = [{"type": "gate.rejected"}, {"type": "agent.turn"}, {"type": "agent.turn"}]
    play.proof = {"remaining": 0, "killedProcesses": 9}
    assert play.check() == []
    play.after = 2
    assert play.check() == ["2 of cyd's processes were alive after the kill's answer"]
