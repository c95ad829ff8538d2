"""Every sandbox of one agent, behind the backend's own contract, so that a kill reaches all of them at once.

The rooms that open sandboxes for an agent (repo, agents, gates) are given a `Tree` for a backend and never
know. Invariant: after `kill_nowait` nothing of the agent runs, and once the agent's scope is left, `killed`
and `remaining` are the proof.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from sandbox.base import Backend, Sandbox, Spec, Usage


class Tree:
    """A backend that remembers what it opened for one agent."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name = backend.name
        self.tier = backend.tier
        self.namespaced = backend.namespaced
        self.layered = backend.layered
        self.enforced = backend.enforced
        self.watched = backend.watched
        self.user = backend.user
        self.clock = backend.clock
        self._live: list[Sandbox] = []
        self._killing = False
        #: Processes ended by the kill, and those that could still be found after it (0 is the proof).
        self.killed = 0
        self.remaining = 0

    def seen(self, host: Path, target: str) -> str:
        """Return the path under which `host`, bound at `target`, appears inside."""
        return self._backend.seen(host, target)

    @asynccontextmanager
    async def open(self, spec: Spec) -> AsyncIterator[Sandbox]:
        """Start the command in a sandbox that this tree can kill."""
        await trio.lowlevel.checkpoint_if_cancelled()
        sandbox: Sandbox | None = None
        try:
            async with self._backend.open(spec) as sandbox:
                self._live.append(sandbox)
                if self._killing:  # the kill came between the launch and this line
                    sandbox.kill_nowait()
                yield sandbox
        finally:
            if sandbox is not None:
                self._live.remove(sandbox)
                if self._killing and sandbox.proof is not None:
                    self.killed += sandbox.proof.killed
                    self.remaining += sandbox.proof.remaining

    def kill_nowait(self) -> None:
        """SIGKILL every process of the agent, synchronously; what is opened later dies at once."""
        self._killing = True
        for sandbox in self._live:
            sandbox.kill_nowait()

    def reopen(self) -> None:
        """Let new sandboxes live again, once a kill has been proven: to salvage what the agent left."""
        self._killing = False

    def processes(self) -> list[int]:
        """Return the host pids of the agent's live processes."""
        return [pid for sandbox in self._live for pid in sandbox.processes()]

    def usage(self) -> Usage:
        """Return what the agent's processes use now, over all its sandboxes."""
        used = [sandbox.usage() for sandbox in self._live]
        return Usage(
            sum(one.memory_bytes for one in used),
            round(sum(one.cpu_seconds for one in used), 2),
            sum(one.processes for one in used),
            sum(one.oom_kills for one in used),
        )
