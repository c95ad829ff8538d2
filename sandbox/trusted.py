"""The `process` backend: no isolation at all, for trusted code where the operator said so.

    warden (adopts every orphan) > sh, nice (giving way) > env (directory)
        > setpriv (uid, parent-death signal) > env (the task's variables) > prlimit > the command

The invariant: what it starts is ended with all its descendants (`sandbox.warded`), and never runs as
the host's uid 0. So nothing that a task chose decides what runs before the identity is dropped: tools
have absolute paths, and until `setpriv` is done the task's variables go by numbered names that mean
nothing to a loader or a program. It hides nothing: the command sees the host's paths, network and
processes, so it runs only behind `SANDBOX_ENABLED=false`. Caller: `sandbox.probe`, for all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, asynccontextmanager
from pathlib import Path

import trio

from sandbox.base import (
    LABEL_VARIABLE,
    CommandNotFound,
    Directory,
    Sandbox,
    SandboxError,
    SandboxLaunchFailed,
    Spec,
    User,
)
from sandbox.cgroup import Cgroups, open_leaf
from sandbox.clock import Clock, RunningClock
from sandbox.inlet import listener_of
from sandbox.layout import SYSTEM_PATH, check_spec, check_user, find_tool, identity, search_path
from sandbox.ports import Ports, host_ports
from sandbox.pty import open_here
from sandbox.spawn import AGENTS_OOM_SCORE, NICER_BY, PIPE
from sandbox.terminal import Terminal
from sandbox.warded import open_warded

_TOOLS = {
    "sh": "dash",
    "nice": "coreutils",
    "env": "coreutils",
    "setpriv": "util-linux",
    "prlimit": "util-linux",
}
#: Gives way as `sandbox.spawn.give_way` would, which might come too late: nothing here waits for an answer.
_GIVE_WAY = f'echo {AGENTS_OOM_SCORE} >/proc/self/oom_score_adj; exec "$@"'


class ProcessBackend:
    """Plain processes in a directory; see `sandbox.base.Backend`."""

    name = "process"
    namespaced = False
    layered = False
    clock: Clock = RunningClock()

    def __init__(
        self,
        user: User,
        *,
        path: str = "/usr/local/bin:/usr/bin:/bin",
        enforced: frozenset[str] = frozenset({"open_files"}),
        cgroups: Cgroups | None = None,
        scratch: Path | None = None,
    ) -> None:
        """Take the identity to run as; raises `SandboxUnavailable` where it is root's or cannot be had.

        Each command gets a home below `scratch` (else where temporary files go), which ends with it; what a
        SIGKILL of this process leaves there is the caller's to remove.
        """
        check_user(user)
        self._tools = {tool: find_tool(tool, package) for tool, package in _TOOLS.items()}
        self.user = user
        self.enforced = enforced
        self.watched = frozenset({"memory_mb", "pids", "disk_mb"}) - enforced
        self.tier = "subreaper" if cgroups is None else "subreaper+cgroup"
        self._cgroups = cgroups
        self._path = path
        self._scratch = scratch

    def seen(self, host: Path, target: str) -> str:
        """Return the host's own path: nothing is shown elsewhere."""
        return str(host)

    def reserve_ports(self, count: int) -> AbstractContextManager[Ports]:
        """Give numbers under which this process listens already, on the host's loopback."""
        return host_ports(count)

    def open(self, spec: Spec) -> AbstractAsyncContextManager[Sandbox]:
        """Start the command in the workspace directory; see `sandbox.base.Backend.open`."""
        return self._open(spec)

    @asynccontextmanager
    async def _open(self, spec: Spec) -> AsyncGenerator[Sandbox, None]:
        check_spec(spec)
        if spec.listen is not None and len(spec.listen.held) != len(spec.listen.numbers):
            raise SandboxError("the ports were not reserved on this host's own network")
        if not isinstance(spec.workspace, Directory):
            raise SandboxError("the process backend has no overlays: use a Directory as workspace")
        path = search_path(spec.env.get("PATH", self._path), spec)
        self._check_command(spec.command[0], spec.workspace.path, path)
        scratch = Path(tempfile.mkdtemp(prefix=f"sandbox-{spec.label}-", dir=self._scratch))
        try:
            os.chown(scratch, self.user.uid, self.user.gid)
            env = {
                "HOME": str(scratch),
                "LANG": "C.UTF-8",
                "TMPDIR": str(scratch),
                **spec.env,
                "PATH": path,
            }
            with open_leaf(self._cgroups, spec) as leaf, ExitStack() as ours, ExitStack() as theirs:
                listeners = self._listeners(spec, ours)
                terminal, far = self._terminal(spec, ours, theirs)
                streams = dict.fromkeys(range(3), far)
                async with open_warded(
                    self._command(spec, spec.workspace.path, list(env), far),
                    spec,
                    env={
                        "PATH": SYSTEM_PATH,
                        LABEL_VARIABLE: spec.label,
                        **{_hidden(number): value for number, value in enumerate(env.values())},
                    },
                    fds={**streams, **{fd: fd for fd in spec.pass_fds}},
                    leaf=leaf,
                ) as tree:
                    theirs.close()
                    tree.listeners, tree.terminal = listeners, terminal
                    yield tree
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @staticmethod
    def _listeners(spec: Spec, ours: ExitStack) -> tuple[trio.SocketListener, ...]:
        """Return listeners for the reserved ports, which go on being reserved after these are closed."""
        made = []
        for held in () if spec.listen is None else spec.listen.held:
            made.append(listener_of(held.dup()))
            ours.callback(made[-1].socket.close)
        return tuple(made)

    def _terminal(self, spec: Spec, ours: ExitStack, theirs: ExitStack) -> tuple[Terminal | None, int]:
        """Return our side of the terminal that the command shall have, and its own: else pipes."""
        if spec.terminal is None:
            return None, PIPE
        terminal, far = open_here(self.user, spec.terminal)
        ours.callback(terminal.close_nowait)
        theirs.callback(os.close, far)
        return terminal, far

    @staticmethod
    def _check_command(program: str, directory: Path, path: str) -> None:
        """Raise what would else be an exit status of `setpriv`, which looks like the command's own."""
        if not directory.is_dir():
            raise SandboxLaunchFailed(f"the workspace {directory} is not a directory")
        if shutil.which(directory / program if "/" in program else program, path=path) is None:
            raise CommandNotFound(f"command not found: {program}")

    def _command(self, spec: Spec, directory: Path, names: Sequence[str], far: int) -> list[str]:
        # `env` looks the values up by itself, so that they stand in no argument, which all may read.
        # Ours comes last: it labels the tree and finds what a crash of its warden leaves of it.
        wanted = {name: _hidden(number) for number, name in enumerate(names)}
        wanted |= {LABEL_VARIABLE: LABEL_VARIABLE}
        variables = " ".join(f"{name}=${{{source}}}" for name, source in wanted.items())
        # It leads a session: the first terminal that it opens is the session's.
        attach = "" if far == PIPE else f"exec 0<>{os.ttyname(far)} 1>&0 2>&0\n"
        return [
            *(self._tools["sh"], "-c", attach + _GIVE_WAY, "sh", self._tools["nice"], "-n", str(NICER_BY)),
            *(self._tools["env"], "-C", str(directory)),
            *(self._tools["setpriv"], "--no-new-privs", "--pdeathsig", "KILL", *identity(self.user), "--"),
            *(self._tools["env"], "-S", f"-i {variables}"),
            *(self._tools["prlimit"], "--core=0", f"--nofile={spec.limits.open_files}", "--", *spec.command),
        ]


def _hidden(number: int) -> str:
    """Return the name by which a variable travels until the identity is dropped."""
    return f"SANDBOX_VALUE_{number}"
