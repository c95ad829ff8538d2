"""Every sandbox of one agent, behind the backend's own contract, so that a kill or a freeze reaches all.

The rooms that open sandboxes for an agent (repo, agents, gates) are given a `Tree` for a backend and never
know. Invariant: after `kill_nowait` nothing of the agent runs, and once the agent's scope is left, `killed`
and `remaining` are the proof; between `freeze_nowait` and `thaw_nowait` nothing of the agent moves or starts,
and none of its time passes; nor does it while the agent waits for a provider.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import trio

from orchestrator.supervise.guarded import Guarded
from sandbox.base import Backend, Proof, Sandbox, Spec, Usage
from sandbox.clock import StoppableClock
from sandbox.departure import Departures
from sandbox.wrapped import Wrapped

#: How long a launcher may take to unmount what its sandbox wrote, and with that to write it to the disk.
UNMOUNT_S = 20.0


class Tree(Wrapped):
    """A backend that remembers what it opened for one agent."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._clock = StoppableClock()
        self.clock = self._clock
        self._live: list[Guarded] = []
        #: What there is to kill: those, and what is on its way to its first instruction.
        self._mortal: list[Sandbox] = []
        self._departures = Departures()
        self._killing = False
        self._frozen = False
        #: How many wait for what is not the agent's doing.
        self._standing = 0
        #: Sandboxes on their way to their first instruction.
        self.starting = 0
        self._moved = trio.lowlevel.ParkingLot()
        #: Processes ended by the kill, and those that could still be found after it (0 is the proof).
        self.killed = 0
        self.remaining = 0

    @asynccontextmanager
    async def open(self, spec: Spec) -> AsyncIterator[Sandbox]:
        """Start the command in a sandbox that this tree can kill, from the beginning of its launch on."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await self.wait_thawed()
        await self.wait_unmounted()
        sandbox: Guarded | None = None
        launched: list[Sandbox] = []

        def note_launched(mortal: Sandbox) -> None:
            launched.append(mortal)
            self._mortal.append(mortal)

        self.starting += 1
        try:
            told = replace(spec, departures=self._departures, launched=note_launched)
            async with self._inner.open(told) as opened:
                sandbox = Guarded(opened, spec)
                self._take_in(sandbox)
                yield sandbox
        finally:
            if sandbox is None:
                self._note_start()
            else:
                self._live.remove(sandbox)
            for mortal in launched:
                self._mortal.remove(mortal)
                self._count(mortal)

    def _count(self, gone: Sandbox) -> None:
        """Add the proof of a sandbox that is over, where a kill ended it; without one, something is left."""
        if self._killing:
            proof = gone.proof or Proof(killed=0, remaining=max(1, len(gone.processes())), elapsed_ms=0.0)
            self.killed += proof.killed
            self.remaining += proof.remaining

    def _take_in(self, sandbox: Guarded) -> None:
        """Do to a new sandbox what was done to the others while it was launched."""
        self._live.append(sandbox)
        if self._killing:
            sandbox.kill_nowait()
        elif self._frozen:
            sandbox.freeze_nowait()
        self._note_start()

    def _note_start(self) -> None:
        self.starting -= 1
        self._moved.unpark_all()

    def kill_nowait(self) -> None:
        """SIGKILL every process of the agent, synchronously; what is opened later dies at once."""
        self._killing = True
        for sandbox in self._live:
            sandbox.kill_nowait()  # they are told who ended them
        for mortal in self._mortal:
            mortal.kill_nowait()

    def freeze_nowait(self) -> None:
        """Stop every process of the agent, synchronously; what is opened later waits.

        Called again, it stops what has come to move since.
        """
        self._clock.stop()
        self._frozen = True
        if not self._killing:
            for sandbox in self._live:
                sandbox.freeze_nowait()

    def thaw_nowait(self) -> None:
        """Let everything go on where it stood."""
        self._frozen = False
        for sandbox in self._live:
            sandbox.thaw_nowait()
        self._let_time_pass()
        self._moved.unpark_all()

    def _let_time_pass(self) -> None:
        if not self._frozen and not self._standing:
            self._clock.go_on()

    @contextmanager
    def stand_still(self) -> Iterator[None]:
        """Let none of the agent's time pass inside the block; its processes go on."""
        self._standing += 1
        self._clock.stop()
        try:
            yield
        finally:
            self._standing -= 1
            self._let_time_pass()

    @property
    def frozen(self) -> bool:
        """Whether the agent may do nothing."""
        return self._frozen

    async def wait_thawed(self) -> None:
        """Wait until the agent may go on; at once where it may."""
        while self._frozen:
            await self._moved.park()

    async def wait_unmounted(self) -> None:
        """Wait until no sandbox that is over holds the agent's files; the disk's pace is not a kill's."""
        await self._departures.wait(UNMOUNT_S)

    async def wait_departed(self) -> None:
        """Wait a moment for launchers, so that who looks for anything of the agent finds nothing."""
        await self._departures.linger()

    async def wait_started(self) -> None:
        """Wait until no sandbox is on its way to its first instruction."""
        while self.starting:
            await self._moved.park()

    def reopen(self) -> None:
        """Let new sandboxes live again, once a kill has been proven: to salvage what the agent left.

        That is our own doing, on a tree without processes, so a freeze does not hold it up.
        """
        self._killing = False
        self.thaw_nowait()

    def processes(self) -> list[int]:
        """Return the host pids of the agent's live processes."""
        return [pid for sandbox in self._live for pid in sandbox.processes()]

    def sandboxes(self) -> list[Guarded]:
        """Return the agent's sandboxes that are open now."""
        return list(self._live)

    def usage(self) -> Usage:
        """Return what the agent's processes use now, over all its sandboxes."""
        used = [sandbox.usage() for sandbox in self._live]
        return Usage(
            sum(one.memory_bytes for one in used),
            round(sum(one.cpu_seconds for one in used), 2),
            sum(one.processes for one in used),
            sum(one.oom_kills for one in used),
        )
