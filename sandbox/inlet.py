"""Ways to the supervisor for programs in a sandbox without a network: unix sockets, ports on its loopback.

The invariant: this process alone listens, and only who was shown the socket's file, or lives in the network
namespace that the port is in, can connect. Callers: `sandbox.confined`, `sandbox.trusted`, and runtimes,
which give what `open_socket` makes as a `Bind`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

from sandbox.base import LABEL_VARIABLE, SandboxError, SandboxLaunchFailed, User
from sandbox.layout import SYSTEM_PATH, find_tool
from sandbox.ports import BACKLOG
from sandbox.process import run_child
from sandbox.procfs import Stat, read_stat, same

_PROGRAM = Path(__file__).with_name("listener.py")
#: How long two programs may take to start, on a busy disk with cold caches.
_LISTEN_S = 30.0
_TAIL_CHARS = 300


@contextmanager
def open_socket(path: Path, user: User) -> Iterator[trio.SocketListener]:
    """Listen on a unix socket that programs in a sandbox may connect to where it is their `Bind`.

    The file belongs to `user`, mode 0600, before anybody can connect; what a crash left at `path` is
    replaced, and the file is removed at the end. Its directory is the caller's: writable by nobody else, and
    passable (0711) for `user`, as whom the sandbox is made. `path` may be of any length: it is bound by way
    of /proc/self/fd, as `sun_path` has room for 107 bytes. A program inside has no more than that for the
    bind's target; nor, where nothing is shown elsewhere (not `Backend.namespaced`), for `path` itself.
    Raises `SandboxError` where the socket cannot be made.
    """
    with contextlib.ExitStack() as ours:
        try:
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            ours.callback(os.close, folder)
            _remove_socket(path.name, folder)
            made = ours.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            os.fchmod(made.fileno(), 0o600)  # the file that `bind` makes has no more than that
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
            ours.callback(_remove_socket, path.name, folder)
            if os.geteuid() == 0:
                os.chown(path.name, user.uid, user.gid, dir_fd=folder, follow_symlinks=False)
            made.listen(BACKLOG)
        except OSError as error:
            raise SandboxError(f"cannot listen on {path}: {error.strerror or error}") from error
        yield listener_of(made)


def _remove_socket(name: str, folder: int) -> None:
    """Remove a socket of that name, and nothing else."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=folder)


def listener_of(listening: socket.socket) -> trio.SocketListener:
    """Return a listener by which Trio accepts what connects."""
    listening.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


async def listen_inside(
    init: Stat, inside: int, numbers: Sequence[int], label: str
) -> tuple[trio.SocketListener, ...]:
    """Listen on 127.0.0.1 in the network namespace of the process `inside`, which `init` is the init of.

    A socket belongs to the network that it was made in. So a program of ours enters it, makes them, hands
    them over and ends. Its way leads through the user namespace of `init`, which whoever made the sandbox
    may enter; it keeps the host's files and PIDs, so that nobody inside can see it. Raises
    `SandboxLaunchFailed`.
    """
    near, far = socket.socketpair()
    with contextlib.ExitStack() as ours:
        for end in (near, far):
            ours.enter_context(end)
        user, network = _namespace(init.pid, "user", ours), _namespace(inside, "net", ours)
        if (
            not same(init)
            or os.fstat(network).st_ino == os.fstat(_namespace(os.getpid(), "net", ours)).st_ino
        ):
            raise SandboxLaunchFailed("the sandbox has no network of its own to listen in")
        argv = (
            *(find_tool("nsenter", "util-linux"), "--preserve-credentials"),
            *(f"--user=/proc/self/fd/{user}", f"--net=/proc/self/fd/{network}", "--"),
            *(find_tool("setpriv", "util-linux"), "--pdeathsig", "KILL", "--"),
            *(sys.executable, "-I", "-S", str(_PROGRAM), str(far.fileno()), *map(str, numbers)),
        )
        done = await run_child(
            argv,
            env={"PATH": SYSTEM_PATH, LABEL_VARIABLE: label},
            pass_fds=(far.fileno(), user, network),
            deadline_s=_LISTEN_S,
        )
        made = _take(near, len(numbers)) if done.exit.ok else []
        if len(made) != len(numbers):
            for one in made:
                one.close()
            said = " ".join(done.stderr.decode(errors="replace").split())[-_TAIL_CHARS:]
            raise SandboxLaunchFailed(f"cannot listen inside the sandbox: {said or done.exit}")
        return tuple(map(listener_of, made))


def _namespace(pid: int, kind: str, ours: contextlib.ExitStack) -> int:
    """Return a namespace of the very process that has the pid now."""
    stat = read_stat(pid)
    try:
        fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxLaunchFailed(f"the sandbox ended before we could listen in it: {error}") from error
    ours.callback(os.close, fd)
    if stat is None or not same(stat):
        raise SandboxLaunchFailed("the sandbox ended before we could listen in it")
    return fd


def _take(near: socket.socket, count: int) -> list[socket.socket]:
    """Return the sockets that were handed over."""
    rights = socket.CMSG_SPACE(count * 4)
    _, ancillary, _, _ = near.recvmsg(16, rights, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
    return [
        socket.socket(fileno=int.from_bytes(content[start : start + 4], sys.byteorder))
        for level, kind, content in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for start in range(0, len(content), 4)
    ]
