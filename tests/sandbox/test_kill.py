"""Kill at any moment: of the launch, of a fork loop, and of the supervisor itself."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from sandbox.base import Backend, Directory, Layers, Limits, SandboxLaunchFailed, Spec, User
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.departure import Departures
from sandbox.podman import PodmanBackend
from sandbox.process import run_child
from sandbox.procfs import children
from tests.kit.processes import fresh_mark, marked
from tests.kit.sandboxes import read_until
from tests.kit.until import seen

ROOT = Path(__file__).parents[2]
#: Longer than a launch takes here; later moments fall into the running command.
LAUNCH_US = 30_000


@pytest.mark.slow
async def test_kill_at_any_moment_of_the_launch_leaves_nothing(isolated: Backend, layers: Layers) -> None:
    moments = 60 if isolated.name == "bubblewrap" else 18
    began = trio.current_time()
    async with isolated.open(Spec("timed", ("true",), layers)):
        launch_s = trio.current_time() - began
    started = moment = 0
    # On past the length of a launch until some have come to their end, however busy the host.
    while moment < moments or (started < 5 and moment < 10 * moments):
        moment += 1
        label = f"launch-{moment}"
        with trio.move_on_after(launch_s * moment / (moments * 2 / 3)):
            async with isolated.open(Spec(label, ("sleep", "1000"), layers, {"MARK": label})):
                started += 1
                await trio.sleep_forever()
        assert not marked(label), f"killed after {moment} of {moments}"
    assert started, "no launch came to its end, so the last moments were not tried"


async def test_proof_waits_for_no_disk_and_who_needs_the_workspace_does(
    isolated: Backend, layers: Layers
) -> None:
    departures, before = Departures(), set(children(os.getpid()))
    async with isolated.open(Spec("departs", ("sleep", "1000"), layers, departures=departures)) as sandbox:
        [launcher] = set(children(os.getpid())) - before
        os.kill(launcher, signal.SIGSTOP)  # as if the disk kept it from unmounting
    assert sandbox.proof is not None
    assert (sandbox.proof.killed, sandbox.proof.remaining) == (1, 0)
    assert launcher in children(os.getpid())
    os.kill(launcher, signal.SIGCONT)
    await departures.wait(30)
    assert launcher not in children(os.getpid())


def collected(pid: int) -> bool:
    """Collect the child if it has ended; return whether it had."""
    return os.waitpid(pid, os.WNOHANG)[0] == pid


async def test_launcher_that_does_not_end_is_given_up_after_a_while(
    isolated: Backend, layers: Layers
) -> None:
    departures, before = Departures(), set(children(os.getpid()))
    async with isolated.open(Spec("stays", ("sleep", "1000"), layers, departures=departures)):
        [launcher] = set(children(os.getpid())) - before
        os.kill(launcher, signal.SIGSTOP)
    await departures.wait(0)
    await departures.wait(30)
    os.kill(launcher, signal.SIGCONT)
    await seen(lambda: collected(launcher), "it has ended")


async def test_fork_loop_is_dead_with_proof(isolated: Backend, workspace: Directory) -> None:
    mark = fresh_mark("fork-loop")
    bomb = """
import contextlib, os
print("up", flush=True)
while True:
    with contextlib.suppress(OSError):
        os.fork()
"""
    spec = Spec("fork-loop", ("python3", "-c", bomb), workspace, {"MARK": mark}, limits=Limits(pids=200))
    async with isolated.open(spec) as sandbox:
        await read_until(sandbox, b"up")
        await seen(lambda: len(sandbox.processes()) >= 100, "a hundred processes run")
        sandbox.kill_nowait()
        proof = await sandbox.prove_gone(5)
    assert proof.remaining == 0
    assert proof.killed >= 50
    assert not marked(mark)


async def test_proof_that_the_deadline_cuts_off_says_so(isolated: Backend, workspace: Directory) -> None:
    async with isolated.open(Spec("cut", ("sleep", "1000"), workspace)) as sandbox:
        early = await sandbox.prove_gone(0)
        assert early.remaining >= 1
        assert (await sandbox.prove_gone(5)).remaining == 0


async def test_failed_launch_says_what_bwrap_said(
    bubblewrap: BubblewrapBackend, reachable_path: Path
) -> None:
    with pytest.raises(SandboxLaunchFailed, match=r"bwrap: Can't find source path .*nowhere") as caught:
        async with bubblewrap.open(Spec("lost", ("true",), Directory(reachable_path / "nowhere"))):
            pytest.fail("it started")
    assert caught.value.retryable


async def test_failed_overlay_says_what_mount_said(isolated: Backend, layers: Layers) -> None:
    layers.lower.rmdir()
    with pytest.raises(SandboxLaunchFailed, match="mount: "):
        async with isolated.open(Spec("lost", ("true",), layers)):
            pytest.fail("it started")


@pytest.mark.slow
async def test_nothing_outlives_a_supervisor_killed_at_any_moment(
    isolated: Backend, layers: Layers, ordinary_user: User
) -> None:
    container = isinstance(isolated, PodmanBackend)
    moments = [-1, -1, *(range(0, 12 * LAUNCH_US, LAUNCH_US) if container else range(0, LAUNCH_US, 1000))]
    image = (isolated.image, str(isolated.root)) if isinstance(isolated, PodmanBackend) else ()
    done = await run_child(
        (
            *(sys.executable, "-m", "tests.sandbox.supervised", str(layers.lower.parent)),
            *(str(ordinary_user.uid), str(ordinary_user.gid), ordinary_user.name, *image),
        ),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join([str(ROOT), *filter(None, sys.path)])},
        stdin="".join(f"{moment}\n" for moment in moments).encode(),
        deadline_s=50,
    )
    answers = [tuple(map(int, line.split())) for line in done.stdout.decode().splitlines()]
    assert [answer[0] for answer in answers] == moments, done.stderr.decode()
    assert [answer[1] for answer in answers if answer[0] < 0] == [1, 1], done.stderr.decode()
    assert [answer for answer in answers if answer[2]] == []
