"""Run a host process, speak with it, end it with all its descendants, and prove that they are gone.

The invariant: however the block of `open_child` is left, nothing that the process started is alive
after it, as far as can be seen without a warden (`sandbox.tree`). Callers: `orchestrator.repo` for git on
our own repositories, and whoever runs a program of the host's. What is an agent's goes through a backend.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from sandbox.base import MIB, Exit, Proof
from sandbox.leaf import Leaf
from sandbox.pipes import Capture, Closed, feed
from sandbox.procfs import read_stat
from sandbox.spawn import DEVNULL, PIPE, Spawned, wait_pidfd
from sandbox.tree import Tree, become_subreaper, has_adopted

__all__ = [
    "DEVNULL",
    "ENTER",
    "GRACE_S",
    "PIPE",
    "PROOF_S",
    "TREE_VARIABLE",
    "Child",
    "Completed",
    "open_child",
    "run_child",
]

#: How long the end of a block waits for a killed tree; the kernel needs milliseconds.
GRACE_S = 5.0
#: Within that, how long for the proof: what it has not seen by then it still has the time to say.
PROOF_S = 4.0
#: The environment variable by which descendants are known that left their session and lost their parents.
TREE_VARIABLE = "SANDBOX_TREE"
#: How long a tree may take to end by itself where it was asked to first.
TERM_S = 1.0
#: How long output is still read after the command's own end, from descendants that hold the pipe.
DRAIN_S = 1.0
#: Enters a cgroup and becomes the command; the shell's own variables do not belong to its environment.
ENTER = ("/bin/sh", "-c", 'echo 0 >"$1" || exit 125; shift; unset PWD OLDPWD; exec "$@"', "enter")


@dataclass(frozen=True, slots=True)
class Completed:
    """What a short command did; output beyond the cap was read and thrown away (`truncated`)."""

    exit: Exit
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    timed_out: bool = False


class Child(Spawned):
    """A process of ours with all its descendants; made by `open_child`."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        fds: Mapping[int, int],
        leaf: Leaf | None = None,
    ) -> None:
        """Start it; see `Spawned`. Its environment gets one variable more, by which its tree is known.

        Where there is a `leaf`, it enters that before it is anything else.
        """
        if leaf is not None:
            argv = (*ENTER, str(leaf.path / "cgroup.procs"), *argv)
        become_subreaper()
        mark = secrets.token_hex(8)
        super().__init__(argv, env={**env, TREE_VARIABLE: mark}, fds=fds)
        stat = read_stat(self.pid)
        assert stat is not None  # noqa: S101 - a child that nobody has reaped is in /proc, at least as a zombie
        self._tree = Tree(stat, f"{TREE_VARIABLE}={mark}".encode())
        self._killed_at: float | None = None
        self._killed = 0
        self._leaf = leaf
        stdin, stdout, stderr = self.streams
        #: Where the caller gave a descriptor in place of a pipe, the stream is one that is closed.
        self.stdin: trio.abc.SendStream = stdin or Closed()
        self.stdout: trio.abc.ReceiveStream = stdout or Closed()
        self.stderr: trio.abc.ReceiveStream = stderr or Closed()
        #: Evidence that the tree is gone, once `prove_gone` has looked.
        self.proof: Proof | None = None

    async def wait(self) -> Exit:
        """Wait for its end, not its descendants'; see `Spawned`."""
        ended = await super().wait()
        return ended if self._leaf is None else self._leaf.explain(ended)

    def processes(self) -> list[int]:
        """Return the pids alive in the tree, the process itself among them (zombies apart)."""
        return [] if self.proof is not None else [stat.pid for stat in self._tree.living()]

    def kill_nowait(self) -> None:
        """SIGKILL the whole tree, synchronously and without a checkpoint; idempotent."""
        if self.proof is None or self.proof.remaining:
            began = trio.current_time()
            count = self._tree.kill_nowait(self._leaf.kill_nowait if self._leaf is not None else None)
            if self._killed_at is None:
                self._killed_at, self._killed = began, count

    def release_nowait(self) -> None:
        """Spare a command that has ended without descendants the walk through /proc.

        What is left of a tree whose root has been reaped hangs, at its top, on this process.
        """
        if self.proof is None and self.reap_nowait() is not None and not has_adopted():
            self.proof = Proof(killed=0, remaining=0, elapsed_ms=0.0)

    async def terminate(self) -> None:
        """Ask the process itself to end, and wait until its whole tree has.

        Its descendants find nobody at the other end of their pipes and may tidy up, as git does.
        """
        self.signal_nowait(signal.SIGTERM)
        while pidfds := self._tree.pidfds():
            await _wait_all(pidfds)

    async def prove_gone(self, deadline_s: float) -> Proof:
        """Wait until a scan finds nothing of the tree, or the deadline; kills first if it is alive."""
        if self.proof is not None and (self.proof.remaining == 0 or self.closed):
            return self.proof
        self.kill_nowait()
        began = self._killed_at if self._killed_at is not None else trio.current_time()
        with trio.move_on_after(deadline_s):
            await self._wait_gone()
        remaining = len(self._tree.living())
        elapsed_ms = (trio.current_time() - began) * 1000
        self.proof = Proof(self._killed, remaining, elapsed_ms)
        return self.proof

    async def _wait_gone(self) -> None:
        await self.wait()
        while pidfds := self._tree.pidfds():
            await _wait_all(pidfds)
            self._tree.reap_nowait()
            self._tree.kill_nowait()
        if self._leaf is not None:
            self._leaf.kill_nowait()  # what gave itself away by nothing else
            await self._leaf.wait_empty()

    def close_nowait(self) -> None:
        """Close the streams and the pidfd, and collect what this process adopted of the tree."""
        self._tree.reap_nowait()
        super().close_nowait()


async def _wait_all(pidfds: Sequence[int]) -> None:
    """Wait until all have ended, and close the descriptors."""
    try:
        for pidfd in pidfds:
            await wait_pidfd(pidfd)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


@asynccontextmanager
async def open_child(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: int = PIPE,
    stdout: int = PIPE,
    stderr: int = PIPE,
    pass_fds: Sequence[int] = (),
    gently: bool = False,
    leaf: Leaf | None = None,
) -> AsyncGenerator[Child, None]:
    """Start a process in a session of its own, with `env`, `TREE_VARIABLE` and nothing else.

    `stdin`, `stdout`, `stderr` are `PIPE`, `DEVNULL` or a descriptor of the caller's, which stays the
    caller's to close. Leaving the block kills the whole tree and proves it gone, under a shield of
    `GRACE_S`; `gently`, only after it was asked to end and had `TERM_S` for it. Raises
    `SandboxLaunchFailed` where the program cannot be started.
    """
    if cwd is not None:
        argv = ("env", "-C", str(cwd), *argv)  # posix_spawn knows no directory
    fds = {0: stdin, 1: stdout, 2: stderr, **{fd: fd for fd in pass_fds}}
    child = Child(argv, env=env, fds=fds, leaf=leaf)
    try:
        yield child
    finally:
        if child.proof is None:
            if gently:
                with trio.move_on_after(TERM_S, shield=True):
                    await child.terminate()
            child.kill_nowait()
            with trio.move_on_after(GRACE_S, shield=True):
                await child.prove_gone(PROOF_S)
        child.close_nowait()


async def run_child(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: bytes = b"",
    stdin_fd: int | None = None,
    stdout_fd: int | None = None,
    pass_fds: Sequence[int] = (),
    max_output_bytes: int = MIB,
    deadline_s: float = 60.0,
    gently: bool = False,
) -> Completed:
    """Run a short command to its end and return what it did; past the deadline it is killed.

    `stdin_fd` and `stdout_fd` take the place of `stdin` and of the captured output. At most
    `max_output_bytes` of each stream are kept. A descendant that holds a pipe delays the return by
    `DRAIN_S` at most and is killed; `gently` as in `open_child`. Raises `SandboxLaunchFailed` where the
    program cannot be started.
    """
    stdout, stderr = Capture(max_output_bytes), Capture(max_output_bytes)
    async with open_child(
        argv,
        env=env,
        cwd=cwd,
        stdin=PIPE if stdin_fd is None else stdin_fd,
        stdout=PIPE if stdout_fd is None else stdout_fd,
        pass_fds=pass_fds,
        gently=gently,
    ) as child:
        with trio.move_on_after(deadline_s) as wall:
            async with trio.open_nursery() as nursery:
                if stdin_fd is None:
                    nursery.start_soon(feed, child.stdin, stdin)
                if stdout_fd is None:
                    nursery.start_soon(stdout.drain, child.stdout)
                nursery.start_soon(stderr.drain, child.stderr)
                await child.wait()
                nursery.cancel_scope.deadline = trio.current_time() + DRAIN_S
        held = wall.cancelled_caught or nursery.cancel_scope.cancelled_caught
        if not held:
            child.release_nowait()
        ended = child.reap_nowait()
    return Completed(
        ended or child.reap_nowait() or Exit(signal=signal.SIGKILL),
        bytes(stdout.kept),
        bytes(stderr.kept),
        stdout.truncated or stderr.truncated,
        timed_out=ended is None,
    )
