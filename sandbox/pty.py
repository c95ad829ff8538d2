"""Pseudo-terminals for sandboxes: from a /dev/pts that is the sandbox's own, or from the host's.

The invariant: what runs inside never holds a terminal of ours or of who started us, so that nothing it pushes
into its own (TIOCSTI) is ever read by a shell out here. The master never enters the sandbox. Callers:
`sandbox.confined` and `sandbox.trusted`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct

from sandbox.base import SandboxLaunchFailed, User
from sandbox.procfs import read_stat, same
from sandbox.terminal import Size, Terminal

#: Of <asm-generic/ioctls.h>; Python names them not.
_TIOCSPTLCK, _TIOCGPTN, _TIOCGPTPEER = 0x40045431, 0x80045430, 0x5441
_INT = struct.Struct("i")
_PTMX = os.makedev(5, 2)


def open_inside(pid: int, user: User, size: Size) -> tuple[Terminal, int]:
    """Return the first terminal of a sandbox's own /dev/pts, and its far side's descriptor, to be closed.

    `pid` is a process of ours inside, while nothing of the task's runs there. No link is followed on the way.
    Raises `SandboxLaunchFailed`.
    """
    process = read_stat(pid)
    with contextlib.ExitStack() as ours:
        try:
            place = _open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY, None, ours)
            for name in ("dev", "pts"):
                place = _open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, place, ours)
            found = _open("ptmx", os.O_PATH | os.O_NOFOLLOW, place, ours)
            status = os.fstat(found)
            if process is None or not same(process) or not stat.S_ISCHR(status.st_mode):
                raise SandboxLaunchFailed("the sandbox has no /dev/pts of its own, or ended")
            if status.st_rdev != _PTMX:
                raise SandboxLaunchFailed("the sandbox's /dev/pts/ptmx is something else")
            master = os.open(f"/proc/self/fd/{found}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            guard = ours.enter_context(contextlib.ExitStack())
            guard.callback(os.close, master)
            if _INT.unpack(fcntl.ioctl(master, _TIOCGPTN, _INT.pack(0))) != (0,):
                raise SandboxLaunchFailed("the sandbox's /dev/pts is not its own")
            fcntl.ioctl(master, _TIOCSPTLCK, _INT.pack(0))
            far = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            guard.callback(os.close, far)
            _give(far, user)
            terminal = Terminal(master, size)
        except OSError as error:
            raise SandboxLaunchFailed(f"the sandbox gets no terminal: {error.strerror}") from error
        guard.pop_all()
        return terminal, far


def _open(path: str, flags: int, place: int | None, ours: contextlib.ExitStack) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC, dir_fd=place)
    ours.callback(os.close, fd)
    return fd


def open_here(user: User, size: Size) -> tuple[Terminal, int]:
    """Return a terminal of the host's /dev/pts, and its far side's descriptor, to be closed."""
    master, far = os.openpty()
    _give(far, user)
    return Terminal(master, size), far


def _give(far: int, user: User) -> None:
    """Let the sandbox's user open it by its name."""
    if os.geteuid() == 0:
        os.fchown(far, user.uid, user.gid)
