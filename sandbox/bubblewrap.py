"""The bubblewrap backend: a sandbox that an ordinary user can start in milliseconds and end for sure.

    setpriv (uid, parent-death signal) > unshare (user, mount, PID namespace)
        > sh (waits for our answer, limits, overlay) > bwrap > sh (says that it started) > the command

The invariant: everything after `unshare` lives in one PID namespace of ours, whose init does not go on
before this process has answered it. So SIGKILL on that init ends all, at any moment and in the middle
of a fork loop, and its end is the proof: the kernel empties a PID namespace before its init can be
reaped. The init dies with `unshare`, and `unshare` with this process; where this process dies before
its answer, the init reads the end of the channel and gives up. Caller: `sandbox.probe`, for all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path

from sandbox.base import (
    LABEL_VARIABLE,
    MIB,
    Layers,
    Limits,
    Sandbox,
    SandboxError,
    Spec,
    User,
)
from sandbox.cgroup import Cgroups
from sandbox.channel import Channel, channel_ends
from sandbox.clock import Clock, RunningClock
from sandbox.confined import ConfinedSandbox, hold
from sandbox.layout import (
    SYSTEM_PATH,
    check_read_only,
    check_user,
    content_arguments,
    environment,
    etc_files,
    find_tool,
    identity,
    isolation_arguments,
    last_steps,
    overlay_options,
    system_arguments,
    system_files,
)
from sandbox.leaf import Leaf
from sandbox.ports import Ports, own_ports
from sandbox.spawn import Spawned

_TOOLS = {
    "bwrap": "bubblewrap",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "sh": "dash",
}
#: A shell's redirections know descriptors of one digit only.
_DIGITS = range(3, 10)
#: `unshare` and bwrap's two inits count as well, beside what the command may start.
_INITS = 3
_BLOCK_BYTES = 512

# $0 label, $1 open files, $2 blocks of a file or nothing, $3 processes or nothing, $4 overlay options or
# nothing, $5 where to mount, $6 mount, $7... bwrap and the rest. Shells differ in the letter for processes.
# The limits are set here, not before: a limit of processes counts from the user namespace it is set in.
_OUTER = """cd / && echo ready >&{fd} && read -r go <&{fd} || exit 125
ulimit -c 0 && ulimit -n "$1" || exit 125
if [ -n "$2" ]; then ulimit -f "$2" || exit 125; fi
if [ -n "$3" ]; then ulimit -u "$3" 2>/dev/null || ulimit -p "$3" || exit 125; fi
if [ -n "$4" ]; then "$6" -n -i -t overlay -o "$4" overlay "$5" || exit 125; fi
shift 6
exec "$@"
"""
# $0 label, $1... the command. The shell's own variables do not belong to the command's environment.
_INNER = """case "$1" in */*) test -x "$1" && test ! -d "$1" ;; *) command -v "$1" >/dev/null ;; esac ||
{{ echo missing >&{fd}; exit 127; }}
unset PWD OLDPWD
{last_steps}
"""


class BubblewrapBackend:
    """Isolation by namespaces, without a daemon, an image or privileges; see `sandbox.base.Backend`."""

    name = "bubblewrap"
    namespaced = True
    clock: Clock = RunningClock()

    def __init__(
        self,
        user: User,
        *,
        read_only: Iterable[Path] = (),
        path: str = "/usr/local/bin:/usr/bin:/bin",
        layered: bool = True,
        enforced: frozenset[str] = frozenset({"pids", "open_files", "tmp_mb", "home_mb"}),
        tools_path: str = SYSTEM_PATH,
        cgroups: Cgroups | None = None,
    ) -> None:
        """Find the tools; raises `SandboxUnavailable` naming the fix, `SandboxError` for bad paths."""
        check_user(user)
        self.user = user
        self.layered = layered
        self.enforced = enforced
        self.watched = frozenset({"memory_mb", "pids", "disk_mb"}) - enforced
        self.tier = "pid-namespace" if cgroups is None else "pid-namespace+cgroup"
        self._cgroups = cgroups
        self._read_only = check_read_only(read_only)
        self._path = path
        self._tools = {tool: find_tool(tool, package, tools_path) for tool, package in _TOOLS.items()}
        self._system = system_arguments()
        self._files = system_files()

    def seen(self, host: Path, target: str) -> str:
        """Return `target`: inside, host paths mean nothing."""
        return target

    def reserve_ports(self, count: int) -> AbstractContextManager[Ports]:
        """Give numbers that are free in each sandbox's own network."""
        return own_ports(count)

    def open(self, spec: Spec) -> AbstractAsyncContextManager[Sandbox]:
        """Start the command; see `sandbox.base.Backend.open`."""
        return hold(self._launch_nowait, spec, self._cgroups, _INITS, self.user)

    def _launch_nowait(self, spec: Spec, leaf: Leaf | None) -> ConfinedSandbox:
        overlay, workspace = self._workspace(spec)
        digit = next((fd for fd in _DIGITS if fd not in spec.pass_fds), None)
        if digit is None:
            raise SandboxError("descriptors 3 to 9 are all passed: one must be left for the launch")
        near, far = channel_ends()
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as scratch:
            ours.callback(near.close)
            scratch.callback(far.close)
            files = {
                path: _memory_file(text, scratch)
                for path, text in {**self._files, **etc_files(spec.label)}.items()
            }
            inside = [
                *isolation_arguments(spec, self._system, files),
                *content_arguments(spec, workspace, self._read_only, environment(self._path, spec)),
            ]
            inner = _INNER.format(fd=digit, last_steps=last_steps(spec, digit))
            arguments = _memory_file(b"".join(os.fsencode(a) + b"\0" for a in inside), scratch)
            argv = [
                *self._outside(),
                *(self._tools["sh"], "-c", _OUTER.format(fd=digit), spec.label),
                *_ceilings(spec.limits, self.enforced),
                *(overlay, str(workspace), self._tools["mount"], self._tools["bwrap"], "--args"),
                *(str(arguments), "--", "/bin/sh", "-c", inner, spec.label, *spec.command),
            ]
            inherited = (*spec.pass_fds, *files.values(), arguments)
            main = Spawned(
                argv,
                env={"PATH": SYSTEM_PATH, LABEL_VARIABLE: spec.label},
                fds={digit: far.fileno(), **{fd: fd for fd in inherited}},
            )
            ours.pop_all()
        return ConfinedSandbox(main, Channel(near), spec.command[0], leaf)

    def _outside(self) -> list[str]:
        """Return the way from our identity into namespaces of our own, bound to the life of this thread."""
        return [
            *(self._tools["setpriv"], *identity(self.user), "--pdeathsig", "KILL", "--"),
            *(self._tools["unshare"], "--user", "--map-root-user", "--mount", "--pid", "--fork"),
            *("--kill-child=KILL", "--"),
        ]

    def _workspace(self, spec: Spec) -> tuple[str, Path]:
        """Return the overlay's mount options, if it is one, and the directory to bind."""
        if not isinstance(spec.workspace, Layers):
            return "", spec.workspace.path
        if not self.layered:
            raise SandboxError("overlays do not work on this host: use a Directory as workspace")
        return overlay_options(spec.workspace), spec.workspace.merged


def _memory_file(content: bytes, scratch: contextlib.ExitStack) -> int:
    """Return a descriptor to read `content` from: arguments so given show in no process list."""
    with os.fdopen(os.memfd_create("sandbox"), "wb") as made:
        made.write(content)
        made.flush()
        made.seek(0)
        # Above the one-digit numbers, of which one is wanted for the launch channel.
        fd = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, _DIGITS.stop)
    scratch.callback(os.close, fd)
    return fd


def _ceilings(limits: Limits, enforced: frozenset[str]) -> tuple[str, str, str]:
    """Return open files, blocks of a file, processes, as the outer script wants them."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = limits.open_files if hard == resource.RLIM_INFINITY else min(limits.open_files, hard)
    blocks = "" if limits.disk_mb is None else str(limits.disk_mb * MIB // _BLOCK_BYTES)
    processes = "" if limits.pids is None or "pids" not in enforced else str(limits.pids + _INITS)
    return str(files), blocks, processes
