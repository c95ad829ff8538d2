"""Carry bytes into and out of a live sandbox until its command has ended.

The invariant: nothing that the command does keeps `relay` from returning once the command has ended: not an
input that it never reads, not a descendant that holds its pipes open, not an endless output. Memory stays
flat: what a sink does not keep is gone. Callers: `orchestrator.agents` (turns) and `orchestrator.gates`
(checks).
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from sandbox.base import WORKSPACE, Backend, Directory, Exit, Layers, Sandbox

#: Takes each chunk of a stream as it comes; while it waits, the pipe fills and the command waits too.
Sink = Callable[[bytes], Awaitable[None]]

#: Writes what the command reads, for as long as it likes; its input is closed after it.
Source = Callable[[trio.abc.SendStream], Awaitable[None]]

#: After the command's end its pipes are read until they are closed, idle for this long, or this old.
IDLE_S = 0.25
DRAIN_S = 2.0
CHUNK_BYTES = 16 * 1024


class Tail:
    """The end of a stream: keeps the last `keep` bytes or a little more, and counts all."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self.total = 0

    def add(self, chunk: bytes) -> None:
        """Take the next bytes; constant time."""
        self.total += len(chunk)
        self._held += len(chunk)
        self._chunks.append(chunk)
        while self._held - len(self._chunks[0]) >= self._keep:
            self._held -= len(self._chunks.popleft())

    def bytes(self) -> bytes:
        """Return the last `keep` bytes."""
        return b"".join(self._chunks)[-self._keep :]


class _Pump:
    """Carries one stream to its sink, for ever, or for a little while after `end_soon`."""

    def __init__(
        self, source: trio.abc.ReceiveStream, sink: Sink, failed: Callable[[Exception], None]
    ) -> None:
        self._source = source
        self._sink = sink
        self._failed = failed
        self._receiving = trio.CancelScope()
        self._last_at = math.inf

    async def run(self) -> None:
        while trio.current_time() < self._last_at:
            chunk: bytes | bytearray = b""
            with trio.CancelScope(deadline=self._deadline()) as self._receiving:
                chunk = await self._source.receive_some(CHUNK_BYTES)
            if not chunk:
                return
            try:
                await self._sink(bytes(chunk))
            except Exception as error:  # handed to the caller of `relay`, bare
                self._failed(error)
                return

    def end_soon(self) -> None:
        self._last_at = trio.current_time() + DRAIN_S
        self._receiving.deadline = self._deadline()

    def _deadline(self) -> float:
        return min(self._last_at, trio.current_time() + IDLE_S) if self._last_at < math.inf else math.inf


async def relay(sandbox: Sandbox, *, on_stdout: Sink, on_stderr: Sink, stdin: bytes | Source = b"") -> Exit:
    """Feed `stdin`, hand all output to the sinks, and return how the command ended.

    A source is cancelled once the command has ended. An exception of a source or a sink ends the relay and is
    raised as it is; the command may live on then, until the sandbox's block is left.
    """
    failures: list[Exception] = []
    ended: Exit | None = None
    async with trio.open_nursery() as nursery:

        def failed(error: Exception) -> None:
            failures.append(error)
            nursery.cancel_scope.cancel()

        pumps = [_Pump(sandbox.stdout, on_stdout, failed), _Pump(sandbox.stderr, on_stderr, failed)]
        for pump in pumps:
            nursery.start_soon(pump.run)
        feeding = trio.CancelScope()
        nursery.start_soon(_feed, sandbox.stdin, stdin, feeding, failed)
        ended = await sandbox.wait()
        feeding.cancel()
        for pump in pumps:
            pump.end_soon()
    if failures:
        raise failures[0]
    assert ended is not None  # noqa: S101 - the nursery ends otherwise only by a failure or a cancellation
    return ended


async def _feed(
    stream: trio.abc.SendStream,
    source: bytes | Source,
    scope: trio.CancelScope,
    failed: Callable[[Exception], None],
) -> None:
    # A program that reads nothing, or less than all, is not at fault.
    with scope, contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        try:
            await (stream.send_all(source) if isinstance(source, bytes) else source(stream))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception as error:  # handed to the caller of `relay`, bare
            failed(error)
        await stream.aclose()


def seen_workspace(backend: Backend, workspace: Layers | Directory) -> str:
    """Return the path of the workspace as the processes inside see it."""
    host: Path = workspace.merged if isinstance(workspace, Layers) else workspace.path
    return backend.seen(host, WORKSPACE)
