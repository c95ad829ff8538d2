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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from sandbox.base import SandboxError, User

#: Connections that wait to be accepted; the kernel refuses what goes beyond.
BACKLOG = 64


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
