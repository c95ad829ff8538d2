"""The plain tier's trees: whatever a program does to hide, it is found, ended, and proven gone."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from sandbox.base import Directory, Sandbox, SandboxLaunchFailed, Spec, User
from sandbox.process import open_child
from sandbox.procfs import children
from sandbox.trusted import ProcessBackend
from tests.kit.processes import fresh_mark, marked
from tests.kit.sandboxes import read_until
from tests.kit.until import seen

#: Three that left their session, cleared their environment and lost their parents; the mark is an argument.
ESCAPE = """for i in 1 2 3; do setsid env -i /bin/sh -c '(while :; do sleep 3; done; : {mark}) & exit' & done
sleep 1000 & echo up; wait"""


@pytest.fixture
def plain(ordinary_user: User) -> ProcessBackend:
    """Return the backend without a cgroup."""
    return ProcessBackend(ordinary_user, path="/usr/bin:/bin")


def escaping(mark: str, place: Directory) -> Spec:
    """Return a program whose three escapees have the mark."""
    return Spec("escapes", ("sh", "-c", ESCAPE.format(mark=mark)), place)


async def wait_fled(sandbox: Sandbox, mark: str) -> None:
    """Wait until three live on whose parents are gone."""
    await read_until(sandbox, b"up")
    await seen(lambda: len(marked(mark)) == 3 + 1, "three, and the command that names them")


async def test_who_left_session_environment_and_parents_is_found_killed_and_counted(
    plain: ProcessBackend, workspace: Directory
) -> None:
    mark = fresh_mark("fled")
    async with plain.open(escaping(mark, workspace)) as sandbox:
        await wait_fled(sandbox, mark)
        await seen(lambda: len(sandbox.processes()) == 8, "two of the command, three of two")
        sandbox.kill_nowait()
        proof = await sandbox.prove_gone(5)
        assert (proof.killed, proof.remaining) == (8, 0)
    assert not marked(mark)


async def test_each_tree_has_its_own_escapees(plain: ProcessBackend, workspace: Directory) -> None:
    one, other = fresh_mark("one"), fresh_mark("other")
    async with plain.open(escaping(other, workspace)) as stays:
        await wait_fled(stays, other)
        async with plain.open(escaping(one, workspace)) as goes:
            await wait_fled(goes, one)
        assert not marked(one)
        assert len(marked(other)) == 4
    assert not marked(other)


async def test_escapees_die_with_a_command_that_ends_by_itself(
    plain: ProcessBackend, workspace: Directory
) -> None:
    mark = fresh_mark("leaves")
    script = ESCAPE.format(mark=mark).replace("echo up; wait", "read -r word; exit 3")
    async with plain.open(Spec("leaves", ("sh", "-c", script), workspace)) as sandbox:
        await seen(lambda: len(marked(mark)) == 4, "they live")
        await sandbox.stdin.send_all(b"go\n")
        assert (await sandbox.wait()).code == 3
        assert sandbox.processes()
    assert not marked(mark)


def warden() -> int:
    """Return the one child of this process that is a warden."""
    [found] = [
        pid for pid in children(os.getpid()) if b"warden.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return found


async def test_tree_whose_warden_was_killed_is_found_all_the_same(
    plain: ProcessBackend, workspace: Directory
) -> None:
    mark = fresh_mark("unwatched")
    async with plain.open(escaping(mark, workspace)) as sandbox:
        await wait_fled(sandbox, mark)
        os.kill(warden(), signal.SIGKILL)
        assert (await sandbox.wait()).signal == signal.SIGKILL
        proof = await sandbox.prove_gone(5)
        assert proof.remaining == 0
    assert not marked(mark)


async def test_warden_that_was_stopped_does_not_hold_up_a_kill(
    plain: ProcessBackend, workspace: Directory
) -> None:
    mark = fresh_mark("stopped")
    async with plain.open(escaping(mark, workspace)) as sandbox:
        await wait_fled(sandbox, mark)
        os.kill(warden(), signal.SIGSTOP)
        sandbox.kill_nowait()
        assert (await sandbox.prove_gone(5)).remaining == 0
    assert not marked(mark)


async def test_proof_that_comes_to_its_deadline_says_that_something_may_be_left(
    plain: ProcessBackend, workspace: Directory
) -> None:
    said = 0
    for attempt in range(20):  # in one of so many the kernel is not done at once
        mark = fresh_mark(f"late-{attempt}")
        async with plain.open(escaping(mark, workspace)) as sandbox:
            await wait_fled(sandbox, mark)
            proof = await sandbox.prove_gone(0)
            assert proof.remaining or not marked(mark)
            said += proof.remaining
            assert (await sandbox.prove_gone(5)).remaining == 0
        if said:
            break
    assert said


async def test_kill_before_the_command_has_started_lets_it_not_start(
    plain: ProcessBackend, workspace: Directory
) -> None:
    launched: list[Sandbox] = []

    def kill(sandbox: Sandbox) -> None:
        launched.append(sandbox)
        sandbox.kill_nowait()

    spec = Spec("early", ("sh", "-c", "echo >started; sleep 1000"), workspace, launched=kill)
    with pytest.raises(SandboxLaunchFailed, match="it was killed"):
        async with plain.open(spec):
            pytest.fail("it started")
    assert launched[0].proof is not None
    assert (launched[0].proof.killed, launched[0].proof.remaining) == (0, 0)
    assert not (workspace.path / "started").exists()


async def test_escapees_do_not_outlive_a_supervisor_that_is_killed(
    workspace: Directory, ordinary_user: User
) -> None:
    mark = fresh_mark("orphaned")
    script = """
import sys, trio
from pathlib import Path
from sandbox.base import Directory, Spec, User
from sandbox.trusted import ProcessBackend

async def main():
    uid, gid, name, place, command = sys.argv[1:]
    spec = Spec("orphaned", ("sh", "-c", command), Directory(Path(place)))
    async with ProcessBackend(User(int(uid), int(gid), name), path="/usr/bin:/bin").open(spec) as sandbox:
        print((await sandbox.stdout.receive_some()).decode(), flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
    user = (str(ordinary_user.uid), str(ordinary_user.gid), ordinary_user.name)
    env = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join([str(Path(__file__).parents[2]), *filter(None, sys.path)]),
    }
    argv = (sys.executable, "-c", script, *user, str(workspace.path), ESCAPE.format(mark=mark))
    with trio.fail_after(60):
        async with open_child(argv, env=env) as supervisor:
            assert await supervisor.stdout.receive_some() == b"up\n\n"
            await seen(lambda: len(marked(mark)) == 5, "they live, and who runs them")
            supervisor.signal_nowait(signal.SIGKILL)
            await supervisor.wait()
            await seen(lambda: not marked(mark), "nothing of it lives")
