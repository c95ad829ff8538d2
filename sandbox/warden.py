"""The parent of a plain process tree, which adopts every orphan of it: a program.

Arguments: the descriptor of a socket to whoever started it, and that of a file with its orders: the command,
its environment, and the descriptors that are for the command alone. It says that the command is `started`,
then how it `ended CODE SIGNAL`, and goes on collecting what the command left behind. Where the other end of
the socket is shut, or gone with its owner, it starts nothing more and kills all that there is.

The invariant: it exits with 0 only when the kernel says that it has no child; it starts nothing after the
command, and what lost its parents anywhere below became its child (child subreaper). So nothing of the tree
lives then, however it changed its session, its environment or its parents. It signals its own children
only, whose numbers nobody else can have before it has collected them. Run by `sandbox.warded`, by a Python
without site packages, so it keeps to modules that are quick to import.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
#: How long it waits, in milliseconds, for those it has killed before it looks for new ones.
_AGAIN_MS = 5
#: What must neither end it nor, ignored, be handed on to the command.
_DEAF = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGCONT})


class Warden:
    """One command, and what it leaves."""

    def __init__(self, channel: int, orders: int) -> None:
        self._channel = channel
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise SystemExit(f"PR_SET_CHILD_SUBREAPER: {os.strerror(ctypes.get_errno())}")
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # so that nobody traces it who is not root
        for number in _DEAF:
            with contextlib.suppress(OSError, ValueError):  # the C library keeps some to itself
                signal.signal(number, signal.SIG_IGN)
        self._woken, waking = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._waiting = select.poll()
        for fd in (self._woken, channel):
            os.set_inheritable(fd, False)
            self._waiting.register(fd, select.POLLIN)
        self._command = self._start(orders)

    def _start(self, orders: int) -> int:
        with os.fdopen(orders, "rb") as file:
            told = json.loads(file.read())
        shut = any(fd == self._channel for fd, _ in self._waiting.poll(0))
        command = 0
        if not shut:
            try:
                command = os.posix_spawn(
                    told["argv"][0],
                    told["argv"],
                    told["env"],
                    setsid=True,
                    setsigmask=(),
                    setsigdef=_DEAF,
                )
            except OSError as error:
                os.write(2, f"cannot start {told['argv'][0]}: {error}\n".encode())
            else:
                self._say("started")
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2, *told["fds"]):  # they are the command's: whoever reads there waits for its end
            os.dup2(nothing, fd)
        os.close(nothing)
        return command

    def _say(self, words: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._channel, f"{words}\n".encode())

    def watch(self) -> None:
        """Return when no child is left."""
        shut = False
        while self._collect():
            if shut:
                self._kill_children()
            for fd, _ in self._waiting.poll(_AGAIN_MS if shut else None):
                if fd == self._woken:
                    with contextlib.suppress(BlockingIOError):
                        os.read(fd, 4096)
                else:
                    shut = True
                    self._waiting.unregister(fd)

    def _collect(self) -> bool:
        """Collect who has ended; return whether anybody is left."""
        try:
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)) is not None:
                if ended.si_pid == self._command:
                    exited = ended.si_code == os.CLD_EXITED
                    self._say(f"ended {ended.si_status} 0" if exited else f"ended 0 {ended.si_status}")
        except ChildProcessError:
            return False
        return True

    @staticmethod
    def _kill_children() -> None:
        """Kill them; theirs become ours by that, and are killed next."""
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as listed:  # noqa: PTH123 - it is quicker
            children = [int(number) for number in listed.read().split()]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # all stand still before the first dies
            for child in children:
                with contextlib.suppress(OSError):
                    os.kill(child, number)


if __name__ == "__main__":
    Warden(int(sys.argv[1]), int(sys.argv[2])).watch()
    os._exit(0)
