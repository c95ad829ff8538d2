"""A plain process tree below a warden of its own: ended whole, and proven gone by the kernel's word.

The invariant: the tree's every orphan, whatever it did to its session, its environment or its parents, is
adopted by the tree's own warden (`sandbox.warden`), so what lives of it is what is below the warden. That
ends by itself when it has no child left: its exit status 0 is the proof. Where it ended otherwise (whoever
runs as our own user may kill it) its orphans came to us, who start nothing that `spawn` does not know of:
then these are the tree. What other services start at the tree's request (cron, at, a container's daemon) is
no part of it. Where we end, the warden kills the tree by itself. Caller: `sandbox.trusted`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from sandbox.base import Exit, Proof, SandboxLaunchFailed, Spec, Usage
from sandbox.layout import SYSTEM_PATH
from sandbox.leaf import Leaf
from sandbox.pipes import Closed
from sandbox.process import ENTER, GRACE_S, PROOF_S
from sandbox.procfs import Meet, Stat, below, children, read_stat
from sandbox.spawn import Spawned, unreaped, wait_pidfd
from sandbox.stopping import Stopped
from sandbox.terminal import Terminal
from sandbox.tree import become_subreaper, end_nowait, wait_ended
from sandbox.usage import measure

_PROGRAM = Path(__file__).with_name("warden.py")
#: How long a killed tree is waited for before it is looked at, and killed, again.
_AGAIN_S = 0.25
#: How long the warden may take to start, on a busy host.
LAUNCH_S = 60.0
_WORD_BYTES = 4096


class Warded:
    """A live tree; see `sandbox.base.Sandbox` for its promises."""

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str], fds: Mapping[int, int], leaf: Leaf | None
    ) -> None:
        """Start the warden, which starts the command, in `leaf` where there is one; `fds` as in `Spawned`."""
        if leaf is not None:
            argv = (*ENTER, str(leaf.path / "cgroup.procs"), *argv)
        become_subreaper()  # for the orphans of a warden that was killed
        orders = {"argv": list(argv), "env": dict(env), "fds": [fd for fd in fds if fd > 2]}
        near, far = socket.socketpair()
        with far, os.fdopen(os.memfd_create("orders"), "wb") as file, contextlib.ExitStack() as ours:
            ours.callback(near.close)
            near.setblocking(False)
            file.write(json.dumps(orders).encode())
            file.flush()
            file.seek(0)
            own = (far.fileno(), file.fileno())
            self._warden = Spawned(
                (sys.executable, "-I", "-S", str(_PROGRAM), *map(str, own)),
                env={"PATH": SYSTEM_PATH},
                fds={**fds, **{fd: fd for fd in own}},
            )
            ours.pop_all()
        self._near = near
        stat = read_stat(self._warden.pid)
        assert stat is not None  # noqa: S101 - a child that nobody has reaped is in /proc, at least as a zombie
        self._born = stat.start
        self._said = b""
        self._started = False
        self._ended: Exit | None = None
        self._mute = False
        self._killed_at: float | None = None
        self._killed = 0
        self._stopped = Stopped()
        self._leaf = leaf
        stdin, stdout, stderr = self._warden.streams
        self.stdin: trio.abc.SendStream = stdin or Closed()
        self.stdout: trio.abc.ReceiveStream = stdout or Closed()
        self.stderr: trio.abc.ReceiveStream = stderr or Closed()
        self.listeners: tuple[trio.SocketListener, ...] = ()
        self.terminal: Terminal | None = None
        self.proof: Proof | None = None

    async def start(self) -> None:
        """Wait until the command has started; raises `SandboxLaunchFailed` where it will not."""
        with trio.move_on_after(LAUNCH_S):
            while not (self._hear() or self._started):
                await wait_pidfd(self._near.fileno())
            if self._started:
                return
            said = bytes(await self.stderr.receive_some(_WORD_BYTES)).decode(errors="replace").split()
            raise SandboxLaunchFailed(f"the command did not start: {' '.join(said) or 'it was killed'}")
        raise SandboxLaunchFailed(f"the command did not start within {LAUNCH_S:.0f} s")

    async def wait(self) -> Exit:
        """Wait for the command's end, not its descendants'; where that is not to be known, it was killed."""
        await trio.lowlevel.checkpoint()
        while not self._hear():
            await wait_pidfd(self._near.fileno())
        ended = self._ended or Exit(signal=signal.SIGKILL)
        return ended if self._leaf is None else self._leaf.explain(ended)

    def _hear(self) -> bool:
        """Take in what the warden has said; return whether there is no more to wait for."""
        while self._ended is None and not self._mute:
            try:
                part = self._near.recv(_WORD_BYTES)
            except BlockingIOError:
                return False
            except OSError:
                part = b""
            self._mute = not part
            *words, self._said = (self._said + part).split(b"\n")
            for word, *numbers in map(bytes.split, words):
                if word == b"started":
                    self._started = True
                else:
                    code, number = map(int, numbers)
                    self._ended = Exit(signal=number) if number else Exit(code=code)
        return True

    def processes(self) -> list[int]:
        """Return the pids alive in the tree (zombies apart)."""
        return [] if self.proof is not None else [stat.pid for stat in self._living()]

    def usage(self) -> Usage:
        """Return the sum over the tree; see `sandbox.base.Sandbox`."""
        used = measure(self.processes())
        return used if self._leaf is None else self._leaf.usage(used)

    def _living(self, *, anew: bool = False, meet: Meet | None = None) -> list[Stat]:
        """Return what lives below the warden, or, where that was killed, what came to us."""
        ended = self._warden.reap_nowait()
        if ended is None and not self._warden.closed:
            found = below(self._warden.pid, anew=anew, meet=meet)
        elif ended is not None and ended.ok:
            return []
        else:
            found = {}
            for orphan in self._adopted():
                if meet:
                    meet(orphan)
                found |= {orphan.pid: orphan, **below(orphan.pid, anew=True, meet=meet)}
        return [stat for stat in found.values() if stat.alive]

    def _adopted(self) -> list[Stat]:
        """Return the children of this process that it did not start, and that are younger than the tree."""
        stats = [read_stat(pid) for pid in set(children(os.getpid())) - unreaped]
        return [stat for stat in stats if stat is not None and stat.start >= self._born]

    def freeze_nowait(self) -> None:
        """Stop the whole tree, synchronously and without a checkpoint; idempotent."""
        if self.proof is None and self._killed_at is None:
            if self._leaf is not None:
                self._leaf.freeze_nowait()
            self._stopped.freeze_nowait(self._meet_outside)

    def _meet_outside(self, meet: Meet) -> None:
        """Let all be met that no cgroup stops: all, or what left it, as only our own user's program may."""
        inside = set(self._leaf.pids()) if self._leaf is not None else set()
        self._living(anew=True, meet=lambda stat: None if stat.pid in inside else meet(stat))

    def thaw_nowait(self) -> None:
        """Let what was frozen go on."""
        if self._leaf is not None:
            self._leaf.thaw_nowait()
        self._stopped.thaw_nowait()

    def kill_nowait(self) -> None:
        """SIGKILL the whole tree, synchronously and without a checkpoint; idempotent."""
        if self.proof is not None and not self.proof.remaining:
            return
        living = self._living()
        if self._killed_at is None:
            self._killed_at, self._killed = trio.current_time(), len(living)
        if self._leaf is not None:
            self._leaf.kill_nowait()
        end_nowait(living, partial(self._living, anew=True))
        with contextlib.suppress(OSError):
            self._near.shutdown(socket.SHUT_WR)  # whatever is left now, the warden kills
        self._warden.signal_nowait(signal.SIGCONT)  # should somebody have stopped it

    async def prove_gone(self, deadline_s: float) -> Proof:
        """Wait until the warden has no child, or the deadline; kills first if anything is alive."""
        if self.proof is not None and (self.proof.remaining == 0 or self._warden.closed):
            return self.proof
        self.kill_nowait()
        began = self._killed_at if self._killed_at is not None else trio.current_time()
        empty = False
        with trio.move_on_after(deadline_s):
            await self._wait_gone()
            empty = True
        left = len(self._living(anew=True))
        remaining = left if empty else max(1, left)
        self.proof = Proof(self._killed, remaining, (trio.current_time() - began) * 1000)
        return self.proof

    async def _wait_gone(self) -> None:
        while (ended := self._warden.reap_nowait()) is None:
            with trio.move_on_after(_AGAIN_S):
                await self._warden.wait()
                continue
            self.kill_nowait()
        while not ended.ok and (living := self._living()):
            end_nowait(living, self._living)
            await wait_ended(living)
            self._collect_adopted()
        if self._leaf is not None:
            self._leaf.kill_nowait()
            await self._leaf.wait_empty()

    def _collect_adopted(self) -> None:
        for orphan in self._adopted():
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, orphan.pid, os.WEXITED | os.WNOHANG)

    def close_nowait(self) -> None:
        """Close all that this process holds of it; a warden that is not done goes on with the killing."""
        ended = self._warden.reap_nowait()
        if ended is not None and not ended.ok:
            self._collect_adopted()
        self._near.close()
        self._warden.close_nowait()


@asynccontextmanager
async def open_warded(
    argv: Sequence[str], spec: Spec, *, env: Mapping[str, str], fds: Mapping[int, int], leaf: Leaf | None
) -> AsyncGenerator[Warded, None]:
    """Start a command of `spec` in a session of its own below a warden; leaving the block kills and proves.

    Raises `SandboxLaunchFailed` where it cannot be started.
    """
    tree = Warded(argv, env=env, fds=fds, leaf=leaf)
    try:
        if spec.launched is not None:
            spec.launched(tree)
        await tree.start()
        yield tree
    finally:
        tree.kill_nowait()
        with trio.move_on_after(GRACE_S, shield=True):
            await tree.prove_gone(PROOF_S)
        tree.close_nowait()
