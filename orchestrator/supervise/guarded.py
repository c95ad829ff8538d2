"""A sandbox that can be ended for what it uses, so that its own end says so.

Where the kernel keeps a ceiling, a program that passes it is killed in its sandbox, and whoever waits for it
learns why: a turn fails, a gate is a rejection. Invariant: where a ceiling is only watched, the same happens
to the same sandbox, and the same is told; and where the kernel ends it because the whole host has no memory
left, that is told too. Made by `tree`; ended by `watchdog`.
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import replace
from pathlib import Path

import trio

from orchestrator.core.ceilings import Excess
from sandbox.base import Exit, Layers, Limits, Proof, Sandbox, Spec, Usage

_VMSTAT = Path("/proc/vmstat")


class Guarded:
    """See `sandbox.base.Sandbox`; it is one, and knows its ceilings."""

    def __init__(self, inner: Sandbox, spec: Spec) -> None:
        self._inner = inner
        self.limits: Limits = spec.limits
        #: Where the files are that are written in it.
        self.written: Path = (
            spec.workspace.upper if isinstance(spec.workspace, Layers) else spec.workspace.path
        )
        self.excess: Excess | None = None
        self._killed = False
        self._oom_kills = host_oom_kills()
        self.stdin: trio.abc.SendStream = inner.stdin
        self.stdout: trio.abc.ReceiveStream = inner.stdout
        self.stderr: trio.abc.ReceiveStream = inner.stderr
        self.listeners = inner.listeners
        self.terminal = inner.terminal

    @property
    def proof(self) -> Proof | None:
        """The evidence of its end, once there is one."""
        return self._inner.proof

    @proof.setter
    def proof(self, proof: Proof | None) -> None:
        """Take another's word for it."""
        self._inner.proof = proof

    def end_for(self, excess: Excess) -> None:
        """SIGKILL it for what it used, synchronously; the first excess counts."""
        if self.excess is None:
            self.excess = excess
            self.kill_nowait()

    async def wait(self) -> Exit:
        """Wait for the command's end, which tells what it was ended for."""
        ended = await self._inner.wait()
        if ended.ok:
            return ended
        if self.excess is None:
            lost = ended.signal == signal.SIGKILL and not self._killed and host_oom_kills() > self._oom_kills
            return replace(ended, oom_killed=True) if lost else ended
        return replace(ended, oom_killed=self.excess.of_memory, excess=str(self.excess))

    def kill_nowait(self) -> None:
        """See `Sandbox.kill_nowait`."""
        self._killed = True
        self._inner.kill_nowait()

    async def prove_gone(self, deadline_s: float) -> Proof:
        """See `Sandbox.prove_gone`."""
        return await self._inner.prove_gone(deadline_s)

    def freeze_nowait(self) -> None:
        """See `Sandbox.freeze_nowait`."""
        self._inner.freeze_nowait()

    def thaw_nowait(self) -> None:
        """See `Sandbox.thaw_nowait`."""
        self._inner.thaw_nowait()

    def usage(self) -> Usage:
        """See `Sandbox.usage`."""
        return self._inner.usage()

    def processes(self) -> list[int]:
        """See `Sandbox.processes`."""
        return self._inner.processes()


def host_oom_kills() -> int:
    """Return how many processes of the host the kernel has ended for want of memory, as far as it tells.

    It tells no names: one of ours that was SIGKILLed by nobody of us while the number grew was one of them.
    """
    with contextlib.suppress(OSError, StopIteration):
        words = (line.split() for line in _VMSTAT.read_text().splitlines())
        return next(int(count) for name, count in words if name == "oom_kill")
    return 0
