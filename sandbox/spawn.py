"""Spawn one host process on Trio's own thread, with exactly the descriptors named, and reap it.

The invariant: the spawning thread is Trio's, because a parent-death signal hangs on the thread that
forked and a worker thread ends after ten idle seconds; and a child is reaped through its pidfd, so
that no other child's exit status is ever taken. Callers: `sandbox.process`, `sandbox.bubblewrap`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from sandbox.base import Exit, SandboxLaunchFailed

#: In place of a descriptor: a new pipe whose other end is the child's stream; nothing at all.
PIPE = -1
DEVNULL = -3

#: How much nicer than this process an agent's processes are, of the kernel's 40 steps.
NICER_BY = 10
#: Whom the kernel ends first where memory runs out, of -1000 (never) to 1000: agents before all else, and
#: this process, with what it starts for itself, after the rest.
AGENTS_OOM_SCORE = 500
OWN_OOM_SCORE = -500
_LAST = 19
#: Exit statuses above this are a shell's and bwrap's way to name a signal.
_SIGNAL_BASE = 128
_SIGNALS = frozenset(int(number) for number in signal.Signals)
_STANDARD = (0, 1, 2)
#: What a child must not find ignored because this process, or who started it, ignores it.
_DEFAULTED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)

#: The pids of the processes started here and not yet reaped: no adopted orphan is one of them.
unreaped: set[int] = set()


def give_way(pid: int) -> None:
    """Let a process, and all that it will start, give way to this one: for the processor and for memory.

    A kill has to work while agents keep every core busy, and while thousands of processes die at once; and
    where memory has run out, the kernel is to end an agent. Where this process may lower such a score
    (CAP_SYS_RESOURCE), none of them can take that back.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, or is another user's
        os.setpriority(os.PRIO_PROCESS, pid, min(_LAST, os.getpriority(os.PRIO_PROCESS, 0) + NICER_BY))
    with contextlib.suppress(OSError):  # the same
        _score_file(pid).write_text(str(AGENTS_OOM_SCORE))


def stand_firm() -> bool:
    """Let the kernel rather end others than this process where memory runs out; return whether it will.

    That needs CAP_SYS_RESOURCE; a service manager has it (`OOMScoreAdjust=`), and what it gave is kept.
    """
    own = _score_file(os.getpid())
    try:
        if int(own.read_text()) > OWN_OOM_SCORE:
            own.write_text(str(OWN_OOM_SCORE))
    except OSError:
        return False
    return True


def _score_file(pid: int) -> Path:
    return Path(f"/proc/{pid}/oom_score_adj")


async def wait_pidfd(pidfd: int) -> None:
    """Wait until the process of a pidfd has ended; any number of waiters may do so at once."""
    own = os.dup(pidfd)  # Trio allows one waiter a descriptor
    try:
        await trio.lowlevel.wait_readable(own)
    finally:
        os.close(own)


class Spawned:
    """One process of ours: its pid, its pidfd and the streams to it, but not its descendants."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], fds: Mapping[int, int]) -> None:
        """Start it; `fds` maps its descriptors to ours, `PIPE` or `DEVNULL`, and 0, 1, 2 default to pipes.

        Raises `SandboxLaunchFailed` where the program cannot be started.
        """
        self.streams: list[trio.lowlevel.FdStream | None] = []
        self._exit: Exit | None = None
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            mapping = dict(fds)
            for number in _STANDARD:
                mapping[number] = self._standard(number, mapping.get(number, PIPE), theirs, ours)
            self.pid = _spawn(argv, env, mapping)
            unreaped.add(self.pid)
            self.pidfd = os.pidfd_open(self.pid)  # it cannot be reaped by anybody else before this
            ours.pop_all()

    def _standard(
        self, number: int, fd: int, theirs: contextlib.ExitStack, ours: contextlib.ExitStack
    ) -> int:
        if fd >= 0:
            self.streams.append(None)
            return fd
        if fd == DEVNULL:
            self.streams.append(None)
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            theirs.callback(os.close, null)
            return null
        reading, writing = os.pipe2(os.O_CLOEXEC)
        far, near = (reading, writing) if number == 0 else (writing, reading)
        theirs.callback(os.close, far)
        try:
            stream = trio.lowlevel.FdStream(near)
        except BaseException:
            os.close(near)
            raise
        ours.callback(stream.close)
        self.streams.append(stream)
        return far

    @property
    def closed(self) -> bool:
        """Whether this process has let go of it."""
        return self.pidfd < 0

    async def wait(self) -> Exit:
        """Wait for its end and reap it; where that is no longer to be known, it was killed."""
        if self._exit is None and not self.closed:
            await wait_pidfd(self.pidfd)
        else:
            await trio.lowlevel.checkpoint()
        return self.reap_nowait() or Exit(signal=signal.SIGKILL)

    def reap_nowait(self) -> Exit | None:
        """Collect it if it has ended, and return how; None while it lives."""
        if self._exit is None:
            self._exit = reap_pidfd(self.pidfd)
            if self._exit is not None:
                unreaped.discard(self.pid)
        return self._exit

    def signal_nowait(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens where it has ended."""
        if self._exit is None and not self.closed:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def close_streams_nowait(self) -> None:
        """Close the streams alone."""
        for stream in self.streams:
            if stream is not None:
                stream.close()

    def close_nowait(self) -> None:
        """Close the streams and the pidfd; the process should have been reaped."""
        self.close_streams_nowait()
        self.reap_nowait()
        if not self.closed:
            os.close(self.pidfd)
            self.pidfd = -1
            unreaped.discard(self.pid)


def reap_pidfd(pidfd: int) -> Exit | None:
    """Collect an ended child and return how it ended; None where it lives or is no child of ours."""
    if pidfd < 0:
        return None
    try:
        status = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if status is None:
        return None
    if status.si_code == os.CLD_EXITED:
        return Exit(code=status.si_status)
    return Exit(signal=status.si_status)


def decode(raw: Exit) -> Exit:
    """Return the command's end from bwrap's exit status, which names a signal as 128 + n, as shells do."""
    if raw.code is not None and raw.code - _SIGNAL_BASE in _SIGNALS:
        return Exit(signal=raw.code - _SIGNAL_BASE)
    return raw


def _spawn(argv: Sequence[str], env: Mapping[str, str], fds: Mapping[int, int]) -> int:
    # posix_spawn rather than Popen: it can put a descriptor at a number of our choice, which a shell
    # that knows one-digit numbers needs, and it never copies page tables. Sources are lifted above the
    # one-digit numbers first, lest one target overwrites the source of another.
    with contextlib.ExitStack() as lifted:
        actions: list[tuple[int, int, int] | tuple[int, int]] = []
        for number, fd in fds.items():
            source = fd
            if fd != number:
                source = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
                lifted.callback(os.close, source)
            actions.append((os.POSIX_SPAWN_DUP2, source, number))
        actions += [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable() if fd not in fds]
        program = shutil.which(argv[0], path=env.get("PATH", os.defpath))
        if program is None:
            raise SandboxLaunchFailed(f"cannot start {argv[0]}: there is no such program")
        try:
            return os.posix_spawn(
                program,
                list(argv),
                dict(env),
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULTED,
            )
        except (OSError, ValueError) as error:
            raise SandboxLaunchFailed(f"cannot start {argv[0]}: {error}") from error


def _inheritable() -> list[int]:
    """Return the descriptors that would leak into a child: libraries and who started us leave some."""
    leaks = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths
        with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
            if os.get_inheritable(int(name)):
                leaks.append(int(name))
    return leaks
