"""Host processes: short commands to their end, and trees that are ended whole."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import trio

from sandbox.base import Exit, SandboxLaunchFailed
from sandbox.process import DEVNULL, open_child, run_child
from sandbox.procfs import below, descendants, one_look, read_stat, same, signal_process, snapshot
from tests.kit.processes import fresh_mark, marked
from tests.kit.until import seen

ENV = {"PATH": "/usr/bin:/bin"}


def shell(script: str) -> tuple[str, ...]:
    """Return the command line of a script."""
    return ("sh", "-c", script)


async def test_short_command_answers_with_all_it_did(tmp_path: Path) -> None:
    done = await run_child(shell("cat; pwd; echo oh >&2; exit 3"), env=ENV, cwd=tmp_path, stdin=b"in\n")
    assert (done.exit, done.stdout, done.stderr) == (Exit(code=3), f"in\n{tmp_path}\n".encode(), b"oh\n")
    assert not done.truncated
    assert not done.timed_out


async def test_more_input_than_is_read_is_no_error() -> None:
    done = await run_child(shell("head -c 1"), env=ENV, stdin=b"x" * 10_000_000)
    assert (done.exit.ok, done.stdout) == (True, b"x")


async def test_output_is_capped_and_said_so() -> None:
    done = await run_child(shell("head -c 3000000 /dev/zero; echo e >&2"), env=ENV, max_output_bytes=1000)
    assert done.exit.ok
    assert (len(done.stdout), done.stderr, done.truncated) == (1000, b"e\n", True)


async def test_endless_command_ends_at_its_deadline() -> None:
    done = await run_child(("yes",), env=ENV, deadline_s=0.1, max_output_bytes=10)
    assert done.timed_out
    assert done.exit == Exit(signal=signal.SIGKILL)


async def test_deadline_ends_what_ignores_every_signal_it_can() -> None:
    mark = fresh_mark("ignores")
    script = "trap '' TERM HUP INT; (setsid sleep 1000 &); while :; do sleep 1000; done"
    done = await run_child(shell(script), env={**ENV, "MARK": mark}, deadline_s=0.1)
    assert done.timed_out
    assert not marked(mark)


async def test_descendant_that_holds_the_pipe_delays_and_dies() -> None:
    mark = fresh_mark("holds")
    began = trio.current_time()
    done = await run_child(shell("(setsid sleep 1000 &) ; echo x"), env={**ENV, "MARK": mark})
    assert (done.exit.ok, done.stdout, done.timed_out) == (True, b"x\n", False)
    assert trio.current_time() - began < 10
    assert not marked(mark)


async def test_descriptors_of_the_callers_take_the_place_of_pipes() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            ours.sendall(b"through\n")
            ours.shutdown(socket.SHUT_WR)
            done = await run_child(("cat",), env=ENV, stdin_fd=theirs.fileno(), stdout_fd=theirs.fileno())
        assert done.exit.ok
        assert ours.recv(99) == b"through\n"


async def test_stream_that_is_no_pipe_is_closed() -> None:
    async with open_child(("true",), env=ENV, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) as child:
        for reading in (child.stdout, child.stderr):
            with pytest.raises(trio.ClosedResourceError):
                await reading.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await child.stdin.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await child.stdin.wait_send_all_might_not_block()
        await child.stdin.aclose()


async def test_descriptors_of_one_digit_reach_a_child_unmixed() -> None:
    pairs = [os.pipe() for _ in range(12)]
    for number, (_, writing) in enumerate(pairs):
        os.write(writing, b"%d" % number)
        os.close(writing)
    numbers = [reading for reading, _ in pairs]
    script = f"import os; print(*(os.read(fd, 9).decode() for fd in {numbers}))"
    done = await run_child(("python3", "-c", script), env=ENV, pass_fds=numbers)
    for reading in numbers:
        os.close(reading)
    assert done.stdout.split() == [b"%d" % number for number in range(12)], done.stderr


@pytest.mark.parametrize("argv", [("no-such-program",), ("/etc/passwd",), ("true", "a\0b")])
async def test_program_that_cannot_be_started_says_why(argv: tuple[str, ...]) -> None:
    with pytest.raises(SandboxLaunchFailed, match="cannot start"):
        await run_child(argv, env=ENV)


async def test_signals_that_we_ignore_are_not_ignored_by_children() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = await run_child(shell("kill -INT $$; echo ignored"), env=ENV)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.exit == Exit(signal=signal.SIGINT)


async def test_daemon_that_fled_into_its_own_session_is_found_and_killed() -> None:
    mark = fresh_mark("fled")
    script = "(setsid sh -c '(setsid sleep 1000 >/dev/null 2>&1 &) ; sleep 1000' &) ; echo up; read x"
    async with open_child(shell(script), env={**ENV, "MARK": mark}) as child:
        assert await child.stdout.receive_some() == b"up\n"
        await seen(lambda: len(marked(mark)) >= 4, "four processes run")
        assert set(child.processes()) == set(marked(mark))
        child.kill_nowait()
        proof = await child.prove_gone(5)
    assert (proof.killed, proof.remaining) == (4, 0)
    assert not marked(mark)


async def test_kill_of_one_tree_does_not_touch_another() -> None:
    this_tree = fresh_mark("this-tree")
    other_tree = fresh_mark("other-tree")
    script = "(setsid sleep 1000 &) ; echo up; exec cat"
    async with open_child(shell(script), env={**ENV, "MARK": other_tree}) as other:
        assert await other.stdout.receive_some() == b"up\n"
        async with open_child(shell(script), env={**ENV, "MARK": this_tree}) as child:
            assert await child.stdout.receive_some() == b"up\n"
        assert not marked(this_tree)
        assert len(other.processes()) == 2
        await other.stdin.aclose()
        assert (await other.wait()).ok
    assert not marked(other_tree)


async def test_tree_that_forks_all_the_time_comes_to_its_end() -> None:
    mark = fresh_mark("forks-on")
    script = "echo up; for i in 1 2 3; do (while :; do sh -c 'sleep 0.01 &' ; done) & done; wait"
    async with open_child(shell(script), env={**ENV, "MARK": mark}) as child:
        assert await child.stdout.receive_some() == b"up\n"
        await seen(lambda: len(child.processes()) >= 5, "five processes run")
        child.kill_nowait()
        assert (await child.prove_gone(10)).remaining == 0
    assert not marked(mark)


def start_foreign() -> subprocess.Popen[bytes]:
    """Start a child that somebody else looks after."""
    return subprocess.Popen(["sh", "-c", "exit 5"])


async def test_foreign_child_keeps_its_exit_status() -> None:
    foreign = start_foreign()
    await run_child(shell("(setsid true &) ; (setsid sleep 1000 >/dev/null 2>&1 &)"), env=ENV)
    assert foreign.wait(10) == 5


async def test_number_of_the_dead_is_never_signalled() -> None:
    async with open_child(("cat",), env=ENV) as child:
        stat = read_stat(child.pid)
        assert stat is not None
        earlier = dataclasses.replace(stat, start=stat.start - 1)
        assert same(stat)
        assert not same(earlier)
        signal_process(earlier, signal.SIGKILL)
        await child.stdin.aclose()
        assert (await child.wait()).ok
    assert not same(stat)
    signal_process(stat, signal.SIGKILL)
    child.kill_nowait()
    child.signal_nowait(signal.SIGKILL)
    assert child.processes() == []


async def test_tree_is_read_without_the_other_processes_of_the_host() -> None:
    script = "(setsid sleep 1000 & sleep 1000 & echo up; wait) & wait"
    async with open_child(shell(script), env=ENV) as child:
        assert await child.stdout.receive_some() == b"up\n"
        await seen(lambda: len(below(child.pid)) == 3, "a shell and two sleeps run")
        assert below(child.pid).keys() == descendants(snapshot(), [child.pid]).keys()
        child.kill_nowait()
        await child.prove_gone(5)
        assert below(child.pid) == {}


async def test_many_trees_are_read_in_one_look() -> None:
    async with open_child(("cat",), env=ENV) as one, open_child(shell("sleep 1000 & wait"), env=ENV) as other:
        await seen(lambda: len(below(other.pid)) == 1, "its sleep runs")
        with one_look():
            assert [len(below(tree.pid)) for tree in (one, other)] == [0, 1]
            assert set(below(os.getpid())) >= {one.pid, other.pid}
            other.kill_nowait()
            still = below(other.pid)
        assert len(still) == 1, "within a look nothing changes"
