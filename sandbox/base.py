"""The contract that every sandbox backend keeps, and the words it is written in.

A backend turns a `Spec` into one process tree that it can kill as a whole and prove gone:

    probe -> Backend -> open(spec) -> Sandbox -> wait() -> Exit
                                         |
                                         +-- freeze_nowait() <-> thaw_nowait()
                                         +-- usage() -> Usage
                                         +-- kill_nowait() -> prove_gone() -> Proof

`open` owns the tree: however its block is left, every process in it is dead, and `Sandbox.proof`
says so, before the block's exit returns. Callers: `orchestrator.repo` (git on what an agent can
write), `orchestrator.agents` (turns), `orchestrator.gates` (checks).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio

from sandbox.clock import Clock
from sandbox.ports import Ports
from sandbox.terminal import Size, Terminal

if TYPE_CHECKING:
    from sandbox.departure import Departures

#: Where a namespaced backend shows the workspace, and the writable home, to the processes inside.
WORKSPACE = "/workspace"
HOME = "/home/agent"

#: The environment variable under which the label of a sandbox is found in /proc, from outside.
LABEL_VARIABLE = "SANDBOX_LABEL"

MIB = 1024 * 1024


class SandboxError(Exception):
    """The sandbox could not do its work."""

    #: Whether the same call may succeed later without anybody changing the host.
    retryable = False


class SandboxUnavailable(SandboxError):
    """No sandbox backend works on this host."""


class SandboxLaunchFailed(SandboxError):
    """The sandbox did not reach its first instruction."""

    retryable = True


class CommandNotFound(SandboxLaunchFailed):
    """The sandbox started, but there is no such program in it."""

    retryable = False


@dataclass(frozen=True, slots=True)
class User:
    """The host identity that sandboxed processes run as (never uid 0)."""

    uid: int
    gid: int
    name: str


@dataclass(frozen=True, slots=True)
class Bind:
    """A host path shown inside, read-only unless said otherwise.

    It may be a unix socket: whoever sees it and is its owner may connect (`sandbox.inlet.open_socket`).
    """

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Layers:
    """A copy-on-write workspace: `lower` is shared and never written, `upper` takes the changes.

    `work` and `merged` are empty directories beside `upper`, on the same file system. `cover` and `below` are
    shared as well: under the same name, what `cover` has comes before `lower`, and what `below` has after.
    """

    lower: Path
    upper: Path
    work: Path
    merged: Path
    cover: Path | None = None
    below: Path | None = None


@dataclass(frozen=True, slots=True)
class Directory:
    """A workspace that is one plain directory, wholly the sandbox's to write."""

    path: Path


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings for one sandbox; `Backend.enforced` names those that the kernel keeps here."""

    memory_mb: int | None = None
    cpus: float | None = None
    pids: int | None = None
    disk_mb: int | None = None
    open_files: int = 4096
    tmp_mb: int = 512
    home_mb: int = 512
    shm_mb: int = 256

    def held_mb(self, wanted_mb: int) -> int:
        """Return the size of a file system in memory: never more than the memory that may be used."""
        return wanted_mb if self.memory_mb is None else min(wanted_mb, self.memory_mb)


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run, on what, within which limits. Nothing of the caller's environment is inherited."""

    #: Who it belongs to, e.g. the agent's id: 1 to 64 of letters, digits, `-`, `_`, `.`; findable in /proc.
    #: Any number of sandboxes may have the same, also at once.
    label: str
    command: tuple[str, ...]
    workspace: Layers | Directory
    env: Mapping[str, str] = field(default_factory=dict)
    binds: tuple[Bind, ...] = ()
    limits: Limits = field(default_factory=Limits)
    #: File descriptors that the command inherits under the same numbers (a git push over a socketpair).
    pass_fds: tuple[int, ...] = ()
    #: Ports on 127.0.0.1 that lead to us, from the first instruction on (`Sandbox.listeners`).
    listen: Ports | None = None
    #: Run on a terminal of its own (`Sandbox.terminal`), of that size, rather than on three pipes.
    terminal: Size | None = None
    #: Directories, as seen inside, that come before those of `PATH`.
    first_on_path: tuple[str, ...] = ()
    #: Where leaving the block may leave the unmounting of the workspace to; None waits for it as well.
    departures: Departures | None = None
    #: Called with the sandbox as soon as there is anything to kill: what is cut in its launch leaves a proof.
    launched: Callable[[Sandbox], None] | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """How the command ended: an exit code, or the signal that ended it."""

    code: int | None = None
    signal: int | None = None
    oom_killed: bool = False
    #: What ceiling it was ended for by whoever watches it, in words that follow "killed: "; else empty.
    excess: str = ""

    @property
    def ok(self) -> bool:
        """Whether the command ended by itself with status 0."""
        return self.code == 0

    def __str__(self) -> str:
        if self.excess:
            return f"killed: {self.excess}"
        if self.oom_killed:
            return "killed for want of memory"
        return f"signal {self.signal}" if self.signal is not None else f"exit status {self.code}"


@dataclass(frozen=True, slots=True)
class Proof:
    """Evidence that a tree is gone: how many processes were killed, and how many could still be found.

    `killed` counts the processes inside the sandbox that were alive when the kill began; `remaining`
    is 0 exactly when the kernel says that the tree is empty. `elapsed_ms` is from kill to proof.
    """

    killed: int
    remaining: int
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree uses at one moment; without a cgroup it is a sum over `Sandbox.processes`.

    Such a sum counts a page that processes share in each of them, and no process time of those that
    ended without being waited for. By a cgroup, memory is what the tree's end would give back: not the files
    that the kernel only keeps in memory for it. `oom_kills` counts processes ended for want of memory.
    """

    memory_bytes: int = 0
    cpu_seconds: float = 0.0
    processes: int = 0
    oom_kills: int = 0
    #: What of the memory is in files of `/tmp`, the home and `/dev/shm`, where those are the sandbox's own.
    in_files_bytes: int = 0


class Sandbox(Protocol):
    """One live process tree. All methods are safe after its end and may be called more than once."""

    #: The command's standard input, and what it writes; closed by the backend when its block is left.
    stdin: trio.abc.SendStream
    stdout: trio.abc.ReceiveStream
    stderr: trio.abc.ReceiveStream
    #: Where we accept what programs inside connect to `Spec.listen`, in that order; closed with the block.
    listeners: tuple[trio.SocketListener, ...]
    #: Our side of `Spec.terminal`; the pipes carry nothing then. Closed with the block.
    terminal: Terminal | None
    #: Set when the block of `open` has been left, or by `prove_gone`.
    proof: Proof | None

    async def wait(self) -> Exit:
        """Wait for the command's end; its descendants may still live and hold the pipes open."""
        ...

    def kill_nowait(self) -> None:
        """SIGKILL the whole tree at the kernel, synchronously, without a checkpoint; idempotent."""
        ...

    async def prove_gone(self, deadline_s: float) -> Proof:
        """Wait until the kernel says that the tree is empty, or the deadline; kills first if alive."""
        ...

    def freeze_nowait(self) -> None:
        """Stop every process of the tree, synchronously, without a checkpoint; idempotent.

        A frozen tree can be killed, and proven gone, as any other. By a cgroup nothing escapes (see
        `Backend.tier`). Else each process gets SIGSTOP, until two looks find none that moves; a program
        that had the kernel send it SIGCONT (by a timer, say) goes on then, so whoever keeps a tree frozen
        calls this again from time to time: it stops what has come to move since.
        """
        ...

    def thaw_nowait(self) -> None:
        """Let everything that `freeze_nowait` stopped go on; idempotent.

        A process that was stopped before, by somebody else, stays so.
        """
        ...

    def usage(self) -> Usage:
        """Return what the tree uses now; all zeros, `oom_kills` apart, once its block is left."""
        ...

    def processes(self) -> list[int]:
        """Return the host pids of the processes inside that are alive now (zombies apart)."""
        ...


class Backend(Protocol):
    """A way to isolate; made by `sandbox.probe`, shared by all agents, without state of its own."""

    #: `bubblewrap`, `podman` or `process`: shown in status, `doctor` and every kill answer.
    name: str
    #: The way it kills and freezes, in words for people and clients: `pid-namespace`, `container` or
    #: `subreaper`, with `+cgroup` where a cgroup of ours holds each tree as well.
    tier: str
    #: Whether processes inside see other paths than the host (`seen` then differs from the host path).
    namespaced: bool
    #: Whether `Spec.workspace` may be `Layers`.
    layered: bool
    #: The names of the fields of `Limits` that the kernel enforces here.
    enforced: frozenset[str]
    #: Those that are only measured here (`Sandbox.usage`): whoever runs the tree ends one that goes beyond.
    watched: frozenset[str]
    #: The host identity that processes inside run as; owns upper layers and shared checkouts.
    user: User
    #: By which every deadline of what runs inside is measured: it stands still while the tree is frozen.
    clock: Clock

    def seen(self, host: Path, target: str) -> str:
        """Return the path under which `host`, bound at `target`, appears to the processes inside."""
        ...

    def reserve_ports(self, count: int) -> AbstractContextManager[Ports]:
        """Give numbers for `Spec.listen`, to put into a command or its environment before it starts.

        In a network of the sandbox's own they are always the same, and only what runs there can connect.
        Where the network is the host's (not `namespaced`), any user of this host can, and we listen from
        here on to the end of the block: it has to enclose every sandbox that uses them, one at a time.
        """
        ...

    def open(self, spec: Spec) -> AbstractAsyncContextManager[Sandbox]:
        """Start the command; leaving the block kills the whole tree and proves it gone.

        The kill and its proof are shielded with a deadline, so that a cancelled caller still leaves
        nothing behind. The workspace is unmounted by then, or once `Spec.departures` are over. Raises
        `SandboxLaunchFailed` where the first instruction was not reached.
        """
        ...
