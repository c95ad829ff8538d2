"""One live bubblewrap sandbox: its launch handshake, its kill, and the proof of its end.

The invariant: until `start` has answered the init of the sandbox's PID namespace, nothing there runs
but a shell that waits for the answer, and once it has, the init's pidfd is held here. So there is no
moment at which a kill has nothing to aim at. Callers: `sandbox.bubblewrap` and `sandbox.podman`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from sandbox.base import (
    CommandNotFound,
    Exit,
    Proof,
    Sandbox,
    SandboxError,
    SandboxLaunchFailed,
    Spec,
    Usage,
    User,
)
from sandbox.census import count_inside
from sandbox.cgroup import Cgroups, open_leaf
from sandbox.channel import Channel, ChannelClosed
from sandbox.departure import LINGER_S, Departures
from sandbox.inlet import listen_inside
from sandbox.layout import check_spec, waits
from sandbox.leaf import Leaf
from sandbox.procfs import Meet, Stat, below, ended, open_pidfd, read_stat
from sandbox.pty import open_inside
from sandbox.spawn import Spawned, decode, give_way, reap_pidfd, wait_pidfd
from sandbox.stopping import Stopped
from sandbox.terminal import Terminal
from sandbox.usage import measure_with_files

#: How long leaving a block waits for a killed sandbox; the kernel needs milliseconds.
GRACE_S = 10.0
#: Within that, how long for the proof: what it has not seen by then it still has the time to say.
PROOF_S = 9.0
#: How long the way to the first instruction may take, on a busy disk with cold caches.
LAUNCH_S = 60.0
_MESSAGE_S = 2.0
_MESSAGE_BYTES = 4096


class ConfinedSandbox:
    """A live sandbox; see `sandbox.base.Sandbox` for its promises."""

    def __init__(self, main: Spawned, channel: Channel, program: str, leaf: Leaf | None = None) -> None:
        self._main = main
        self._channel = channel
        self._program = program
        self._init: Stat | None = None
        self._init_pidfd = -1
        self._started = False
        self._killed_at: float | None = None
        self._cut_short = False
        self._killed = 0
        self._stopped = Stopped()
        self._leaf = leaf
        self.listeners: tuple[trio.SocketListener, ...] = ()
        self.terminal: Terminal | None = None
        self.proof: Proof | None = None
        #: Whether its launcher, which is no part of the tree, is left to others once the proof is there.
        self.departs = False
        stdin, stdout, stderr = main.streams
        if stdin is None or stdout is None or stderr is None:
            raise SandboxError("a sandbox needs all three streams")
        self.stdin: trio.abc.SendStream = stdin
        self.stdout: trio.abc.ReceiveStream = stdout
        self.stderr: trio.abc.ReceiveStream = stderr

    async def start(self, spec: Spec, user: User) -> None:
        """Lead the launch to the command's first instruction; raises `SandboxLaunchFailed`."""
        with trio.move_on_after(LAUNCH_S):
            try:
                await self._handshake(spec, user)
            except ChannelClosed:
                raise SandboxLaunchFailed(await self._complaint()) from None
            return
        raise SandboxLaunchFailed(f"the sandbox did not start within {LAUNCH_S:.0f} s")

    async def _handshake(self, spec: Spec, user: User) -> None:
        _, pid = await self._channel.hear()
        init = self._adopt(pid)
        if self._leaf is not None:  # in a thread: the kernel may take 20 ms for it
            await trio.to_thread.run_sync(self._leaf.add_nowait, pid)
        await self._channel.answer()
        word, pid = await self._channel.hear()
        if word == "missing":
            raise CommandNotFound(f"command not found inside the sandbox: {self._program}")
        self._begin(pid)
        if waits(spec):
            await self._bring_in(spec, user, init, pid)
        self._started = True

    async def _bring_in(self, spec: Spec, user: User, init: Stat, inside: int) -> None:
        """Make what can only be made in the command's namespaces; its process waits for our answer there."""
        if spec.listen is not None:
            if spec.listen.held:
                raise SandboxError("the ports were reserved on the host's network, not the sandbox's own")
            self.listeners = await listen_inside(init, inside, spec.listen.numbers, spec.label)
        if spec.terminal is None:
            await self._channel.answer()
            return
        self.terminal, far = open_inside(inside, user, spec.terminal)
        try:  # as long as nobody else holds that side, the terminal would seem hung up
            await self._channel.answer()
            await self._channel.hear()
        finally:
            os.close(far)

    def _begin(self, speaker: int) -> None:
        """Take note of the command's process, which has just spoken."""

    def _adopt(self, pid: int) -> Stat:
        """Take hold of the init, which waits for our answer meanwhile."""
        stat = read_stat(pid)
        if stat is None or stat.ppid != self._main.pid:
            raise ChannelClosed
        pidfd = open_pidfd(stat)
        if pidfd is None:
            raise ChannelClosed
        self._init, self._init_pidfd = stat, pidfd
        give_way(pid)
        return stat

    async def _complaint(self) -> str:
        """Return what the launch wrote to its standard error before it died, or how it ended."""
        text = b""
        with trio.move_on_after(_MESSAGE_S):
            while len(text) < _MESSAGE_BYTES and (chunk := await self.stderr.receive_some(_MESSAGE_BYTES)):
                text += chunk
        if said := text.decode(errors="replace").strip():
            return f"the sandbox did not start: {said[-_MESSAGE_BYTES:]}"
        return f"the sandbox did not start: its launch ended with {self._main.reap_nowait() or 'no word'}"

    async def wait(self) -> Exit:
        """Wait for the command's end; with it, bwrap and everything else inside ends too."""
        raw = await self._main.wait()
        # Older versions of unshare hide the signal.
        ended = Exit(signal=signal.SIGKILL) if self._cut_short and not raw.ok else decode(raw)
        return ended if self._leaf is None else self._leaf.explain(ended)

    def processes(self) -> list[int]:
        """Return the host pids of what lives inside, without the two inits that hold it together."""
        return [stat.pid for stat in self._inside()]

    def usage(self) -> Usage:
        """Return the sum over what lives inside; the time of orphans is with the init that collects them."""
        found = self._below()
        used = dataclasses.replace(measure_with_files(found), processes=self._count_inside(found))
        return used if self._leaf is None else self._leaf.usage(used)

    def freeze_nowait(self) -> None:
        """Stop everything by its cgroup; else all but the two inits, which only wait."""
        if self._killed_at is not None:
            return
        if self._leaf is not None:
            self._leaf.freeze_nowait()
        else:
            self._stopped.freeze_nowait(self._inside)

    def thaw_nowait(self) -> None:
        """Let what was frozen go on."""
        if self._leaf is not None:
            self._leaf.thaw_nowait()
        self._stopped.thaw_nowait()

    def _inside(self, meet: Meet | None = None) -> list[Stat]:
        """Return what lives inside, without the two inits; `meet` is called with each as it is read."""

        def meet_inside(stat: Stat) -> None:
            if meet and not self._is_init(stat):
                meet(stat)

        return [stat for stat in self._below(meet and meet_inside) if not self._is_init(stat)]

    def _count_inside(self, found: list[Stat]) -> int:
        return sum(not self._is_init(stat) for stat in found)

    def _count_living(self) -> int:
        """Return how many a kill is about to end."""
        if self._init is None or self._over:
            return 0
        seen = count_inside(self._init.pid)
        return len(self._inside()) if seen is None else seen

    def _is_init(self, stat: Stat) -> bool:
        return self._init is not None and stat.ppid == self._init.pid

    def _below(self, meet: Meet | None = None) -> list[Stat]:
        if self._init is None or self._over:
            return []
        return [stat for stat in below(self._init.pid, anew=bool(meet), meet=meet).values() if stat.alive]

    @property
    def _over(self) -> bool:  # or not yet begun
        return not self._started or self._init_pidfd < 0 or ended(self._init_pidfd)

    def kill_nowait(self) -> None:
        """SIGKILL the init of the PID namespace, and with it everything in it; idempotent."""
        if self._killed_at is not None:
            return
        self._killed_at = trio.current_time()
        self._killed = self._count_living()
        self._cut_short = self._main.reap_nowait() is None
        if self._init is None:
            self._channel.refuse_nowait()
            self._main.signal_nowait(signal.SIGKILL)
        elif not ended(self._init_pidfd):
            if self._leaf is not None:
                self._leaf.kill_nowait()
            # Not the outer process: it collects the init and ends by itself, so that no zombie is left
            # to a pid 1 that may not care.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_pidfd, signal.SIGKILL)

    async def prove_gone(self, deadline_s: float) -> Proof:
        """Wait for the end of the init, whose namespace is empty by then, or for the deadline."""
        if self.proof is not None and (self.proof.remaining == 0 or self._main.closed):
            return self.proof
        self.kill_nowait()
        empty = False
        with trio.move_on_after(deadline_s):
            if self._init is not None:
                await wait_pidfd(self._init_pidfd)
                if not self.departs:  # else our launcher outside follows at once, and is waited for elsewhere
                    with trio.move_on_after(LINGER_S):
                        await self._main.wait()
            else:
                await self._main.wait()
                await self._channel.wait_closed()
            if self._leaf is not None:
                await self._leaf.wait_empty()
            empty = True
        left = 0 if empty else max(1, len(self._inside()))  # 0 by the kernel's word
        began = self._killed_at if self._killed_at is not None else trio.current_time()
        elapsed_ms = (trio.current_time() - began) * 1000
        self.proof = Proof(self._killed, left, elapsed_ms)
        return self.proof

    def close_nowait(self, departures: Departures | None) -> None:
        """Close all that this process holds of the sandbox, but a launcher that may depart in peace."""
        self._channel.close_nowait()
        for listener in self.listeners:
            listener.socket.close()
        if self.terminal is not None:
            self.terminal.close_nowait()
        proven = self.proof is not None and self.proof.remaining == 0
        if departures is not None and proven and self._main.reap_nowait() is None:
            self._main.close_streams_nowait()
            departures.add(self._main)
        else:
            self._main.signal_nowait(signal.SIGKILL)  # only where the proof failed is there anything to hit
            self._main.close_nowait()
        if self._init_pidfd >= 0:
            reap_pidfd(self._init_pidfd)  # ours only where its parent died first and we adopt orphans
            os.close(self._init_pidfd)
            self._init_pidfd = -1


@asynccontextmanager
async def hold(
    launch: Callable[[Spec, Leaf | None], ConfinedSandbox],
    spec: Spec,
    cgroups: Cgroups | None,
    extra_pids: int,
    user: User,
) -> AsyncGenerator[Sandbox, None]:
    """Give what `launch` starts; leaving the block kills and proves.

    Where there are cgroups, it is in a leaf, which counts `extra_pids` beside the command's own.
    """
    check_spec(spec)
    with open_leaf(cgroups, spec, extra_pids) as leaf:
        sandbox = launch(spec, leaf)
        sandbox.departs = spec.departures is not None
        try:
            if spec.launched is not None:
                spec.launched(sandbox)
            await sandbox.start(spec, user)
            yield sandbox
        finally:
            sandbox.kill_nowait()
            with trio.move_on_after(GRACE_S, shield=True):
                await sandbox.prove_gone(PROOF_S)
                if spec.departures is None:
                    await sandbox.wait()  # for the launcher, with which the last file system goes
            sandbox.close_nowait(spec.departures)
