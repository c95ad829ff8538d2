"""A frozen tree stands still as a whole, goes on as if nothing had been, and dies like any other."""

from __future__ import annotations

import os
import signal

import pytest

from sandbox.base import Backend, Directory, Limits, Sandbox, Spec
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.procfs import read_stat, thread_states
from tests.kit.processes import fresh_mark, marked
from tests.kit.sandboxes import read_until
from tests.kit.until import pause, seen

#: Looks at what must not move, and the time between two of them: each animal would move in every one.
LOOKS, BETWEEN_S = 10, 0.03

#: Each animal writes a byte a step into a file of its own; `never` has stopped itself before its first.
MENAGERIE = r"""
tick() { while :; do echo >>"$1"; sleep 0.01; done; }
(trap '' TERM INT HUP CONT; tick stubborn) &
((tick forked) &)
setsid sh -c 'while :; do echo >>session; sleep 0.01; done' &
(setsid sh -c '(while :; do echo >>orphan; sleep 0.01; done) & exit' >/dev/null 2>&1 &)
(while :; do echo >>forks; /bin/true; done) &
sh -c 'kill -STOP $$; while :; do echo >>never; sleep 0.01; done' &
bash -c 'set -m; while sleep 0.01; do echo >>jobs; done' &
sh -c 'sh -c "sh -c \"while :; do echo >>nested; sleep 0.01; done\"; :"; :' &
python3 -c '
import ctypes, subprocess, threading
def spawn():
    while True:
        subprocess.run(["true"])
        open("threads", "a").write("x")
threading.Thread(target=spawn).start()
ctypes.CDLL(None).pthread_exit(None)
' &
tick holder
"""
ANIMALS = frozenset(
    {"stubborn", "forked", "session", "orphan", "forks", "jobs", "nested", "threads", "holder"}
)

BOMB = """
import contextlib, os
print("up", flush=True)
while True:
    with contextlib.suppress(OSError):
        os.fork()
"""


def steps(workspace: Directory) -> dict[str, int]:
    """Return how far each animal has come."""
    return {path.name: path.stat().st_size for path in workspace.path.iterdir()}


async def see_all_move(workspace: Directory) -> None:
    """Wait until every animal has come further than it is now."""
    before = steps(workspace)

    def idle() -> set[str]:
        now = steps(workspace)
        return {name for name in ANIMALS if now.get(name, 0) <= before.get(name, 0)}

    try:
        await seen(lambda: not idle(), "every animal moves")
    except AssertionError:
        pytest.fail(f"these do not move: {idle()}")


def assert_still(sandbox: Sandbox, workspace: Directory) -> None:
    """Look several times: nobody comes further, is born or dies."""
    before, herd = steps(workspace), sorted(sandbox.processes())
    for _ in range(LOOKS):
        pause(BETWEEN_S)
        assert steps(workspace) == before
        assert sorted(sandbox.processes()) == herd


async def test_frozen_zoo_stands_still_and_goes_on_when_thawed(
    backend: Backend, workspace: Directory
) -> None:
    async with backend.open(Spec("freeze", ("sh", "-c", MENAGERIE), workspace)) as sandbox:
        await see_all_move(workspace)
        for _ in range(3):
            sandbox.freeze_nowait()
            sandbox.freeze_nowait()
            assert_still(sandbox, workspace)
            sandbox.thaw_nowait()
            sandbox.thaw_nowait()
            await see_all_move(workspace)
        assert "never" not in steps(workspace), "what had stopped itself is not ours to let go on"
        sandbox.kill_nowait()
        assert (await sandbox.prove_gone(5)).remaining == 0


async def test_frozen_zoo_can_be_killed_and_proven_gone(backend: Backend, workspace: Directory) -> None:
    mark = fresh_mark("frozen")
    spec = Spec("frozen", ("sh", "-c", MENAGERIE), workspace, {"MARK": mark})
    async with backend.open(spec) as sandbox:
        await see_all_move(workspace)
        sandbox.freeze_nowait()
        alive = len(sandbox.processes())
        sandbox.kill_nowait()
        proof = await sandbox.prove_gone(5)
        assert (proof.killed, proof.remaining) == (alive, 0)
        sandbox.thaw_nowait()
        sandbox.freeze_nowait()
        assert sandbox.processes() == []
    assert not marked(mark)


async def test_leaving_the_block_ends_what_is_frozen(backend: Backend, workspace: Directory) -> None:
    mark = fresh_mark("left-frozen")
    spec = Spec("left", ("sh", "-c", "setsid sleep 1000 & echo up; wait"), workspace, {"MARK": mark})
    async with backend.open(spec) as sandbox:
        await read_until(sandbox, b"up")
        sandbox.freeze_nowait()
    assert sandbox.proof is not None
    assert (sandbox.proof.killed, sandbox.proof.remaining) == (2, 0)
    assert not marked(mark)


async def test_fork_loop_is_frozen_whole_and_dies_frozen(
    bubblewrap: BubblewrapBackend, workspace: Directory
) -> None:
    mark = fresh_mark("frozen-loop")
    spec = Spec("frozen-loop", ("python3", "-c", BOMB), workspace, {"MARK": mark}, limits=Limits(pids=200))
    async with bubblewrap.open(spec) as sandbox:
        await read_until(sandbox, b"up")
        for at_least in (2, 20, 100):  # while it grows, and at its ceiling
            await seen(lambda: len(sandbox.processes()) >= at_least, f"{at_least} processes run")  # noqa: B023
            sandbox.freeze_nowait()
            assert_still(sandbox, workspace)
            sandbox.thaw_nowait()
        sandbox.freeze_nowait()
        sandbox.kill_nowait()
        proof = await sandbox.prove_gone(5)
    assert proof.remaining == 0
    assert proof.killed >= 100
    assert not marked(mark)


async def test_command_that_ended_is_neither_frozen_nor_thawed(
    backend: Backend, workspace: Directory
) -> None:
    async with backend.open(Spec("ended", ("true",), workspace)) as sandbox:
        await sandbox.wait()
        sandbox.freeze_nowait()
        sandbox.thaw_nowait()
    sandbox.freeze_nowait()
    sandbox.thaw_nowait()
    assert sandbox.usage().processes == 0


async def test_program_whose_first_thread_ended_is_alive(backend: Backend, workspace: Directory) -> None:
    script = """
import ctypes, threading, time
def go_on():
    print("up", flush=True)
    time.sleep(1000)
threading.Thread(target=go_on).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    async with backend.open(Spec("headless", ("python3", "-c", script), workspace)) as sandbox:
        await read_until(sandbox, b"up")
        (pid,) = sandbox.processes()

        def headless() -> bool:
            stat = read_stat(pid)
            return stat is not None and stat.state == "Z" and thread_states(stat) >= {"S"}

        await seen(headless, "its first thread has ended")
        assert sandbox.processes() == [pid]
        proof = await sandbox.prove_gone(5)
    assert (proof.killed, proof.remaining) == (1, 0)
    assert read_stat(pid) is None


async def test_usage_is_what_the_tree_uses(backend: Backend, workspace: Directory) -> None:
    script = """
import os
held = bytearray(64 << 20)
while os.times().user < 0.3:
    pass
if os.fork() == 0:
    held = None
print("up", flush=True)
input()
"""
    async with backend.open(Spec("usage", ("python3", "-c", script), workspace)) as sandbox:
        await read_until(sandbox, b"up")
        await seen(lambda: sandbox.usage().processes == 2, "both live")
        used = sandbox.usage()
        assert 64 << 20 < used.memory_bytes < 512 << 20
        assert used.cpu_seconds >= 0.3
        assert used.oom_kills == 0
        await sandbox.prove_gone(5)
    assert sandbox.usage().processes == sandbox.usage().memory_bytes == 0


@pytest.mark.parametrize("wanted", ["enforced", "watched"])
def test_limit_is_enforced_or_watched_but_not_both(backend: Backend, wanted: str) -> None:
    assert backend.tier in {f"{base}{more}" for base in TIERS for more in ("", "+cgroup")}
    assert getattr(backend, wanted) <= set(Limits.__slots__)
    assert not backend.enforced & backend.watched


TIERS = ("pid-namespace", "container", "subreaper")


async def test_freezing_again_stops_what_somebody_else_let_go_on(
    backend: Backend, workspace: Directory
) -> None:
    script = "while :; do echo >>steps; done"
    async with backend.open(Spec("again", ("sh", "-c", script), workspace)) as sandbox:
        await seen(lambda: steps(workspace), "it moves")
        (pid,) = sandbox.processes()
        sandbox.freeze_nowait()
        os.kill(pid, signal.SIGCONT)
        sandbox.freeze_nowait()
        assert_still(sandbox, workspace)
        sandbox.thaw_nowait()
        before = steps(workspace)
        await seen(lambda: steps(workspace) != before, "it goes on")
