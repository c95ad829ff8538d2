"""Run git on the repositories that are ours alone: mirrors and quarantines, never what an agent can write.

The invariant: every host git starts here, with an emptied environment, a fixed configuration, a session of
its own, a deadline and a cap on its output; nothing that it is given can become an option or a command.
Callers: every other module of this room, nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from orchestrator.core.text import cleaned
from orchestrator.errors import GitFailed, GitTimeout
from sandbox.base import MIB, SandboxLaunchFailed, User
from sandbox.process import DEVNULL, PIPE, Child, Completed, open_child, run_child

#: How long one command may take on a repository of ours, and against a remote.
LOCAL_S = 60.0
REMOTE_S = 600.0
_STDERR_CHARS = 500
#: Ceilings of a git that works on what an agent made: it keeps any number of commands and paths in memory.
BOUNDED = ("prlimit", f"--as={4096 * MIB}", "--cpu=60", "--core=0", "--")
#: Set for every git of ours and inherited by what it starts, the far end of a push to a local remote too: so
#: a crash's leftovers are known at the next start.
OWNER = "ORCHESTRATOR_REPOSITORY"

_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_ALL": "C",
    # No home: neither git nor curl may find a file there. (ssh takes its home from the user database.)
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/false",
    "SSH_ASKPASS_REQUIRE": "never",
    "GIT_SSH_COMMAND": "/bin/false",
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "false",
    "GIT_OPTIONAL_LOCKS": "0",
}
_CONFIG = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    # What is bigger is compared and stored as a whole: a diff of it would take all the memory.
    "core.bigFileThreshold=16m",
    "core.packedGitWindowSize=32m",
    "core.packedGitLimit=256m",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "credential.helper=",
    "transfer.fsckObjects=true",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "push.recurseSubmodules=no",
    "push.gpgSign=false",
    "commit.gpgSign=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "http.followRedirects=false",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
    "safe.bareRepository=explicit",
)
_FLAGS = tuple(word for entry in _CONFIG for word in ("-c", entry))


@dataclass(frozen=True, slots=True)
class Extra:
    """What one command needs beside the fixed environment and configuration."""

    env: Mapping[str, str] = field(default_factory=dict)
    config: Sequence[str] = ()
    pass_fds: Sequence[int] = ()
    #: Run it as this user rather than as ourselves; only root can.
    user: User | None = None
    #: Words before `git`, for a ceiling that only another program can set.
    prefix: Sequence[str] = ()


NOTHING = Extra()


@dataclass(frozen=True, slots=True)
class Git:
    """Git on one bare repository of ours."""

    directory: Path

    async def run(
        self,
        *args: str,
        stdin: bytes = b"",
        deadline_s: float = LOCAL_S,
        max_bytes: int = 16 * MIB,
        extra: Extra = NOTHING,
    ) -> bytes:
        """Return what the command writes; raises `GitFailed` (also where it writes more) or `GitTimeout`."""
        done = await self.attempt(*args, stdin=stdin, deadline_s=deadline_s, max_bytes=max_bytes, extra=extra)
        if not done.exit.ok:
            raise GitFailed(f"git {args[0]} ended with {done.exit}: {complaint(done.stderr)}")
        if done.truncated:
            raise GitFailed(f"git {args[0]} wrote more than {max_bytes} bytes")
        return done.stdout

    async def attempt(
        self,
        *args: str,
        stdin: bytes = b"",
        deadline_s: float = LOCAL_S,
        max_bytes: int = 16 * MIB,
        extra: Extra = NOTHING,
    ) -> Completed:
        """Return how the command ended, whatever that is; raises `GitTimeout` past the deadline."""
        argv, env = self._command(args, extra)
        try:
            done = await run_child(
                argv,
                env=env,
                stdin=stdin,
                pass_fds=extra.pass_fds,
                max_output_bytes=max_bytes,
                deadline_s=deadline_s,
                # Cut short, git takes its locks and half packs away, also on the far side in a directory.
                gently=True,
            )
        except SandboxLaunchFailed as error:
            raise GitFailed(f"{error} (apt install git)") from error
        if done.timed_out:
            raise GitTimeout(f"git {args[0]} did not end within {deadline_s:g} s")
        return done

    def open(
        self, *args: str, stdin: int = PIPE, stdout: int = PIPE, extra: Extra = NOTHING
    ) -> AbstractAsyncContextManager[Child]:
        """Start a command to speak with; leaving the block kills it. Its complaints are thrown away."""
        argv, env = self._command(args, extra)
        return open_child(argv, env=env, stdin=stdin, stdout=stdout, stderr=DEVNULL, pass_fds=extra.pass_fds)

    async def read_start(
        self, *args: str, max_bytes: int, deadline_s: float = LOCAL_S, extra: Extra = NOTHING
    ) -> tuple[bytes, bool]:
        """Return the first bytes that the command writes, and whether there was more (it is killed then)."""
        argv, env = self._command(args, extra)
        kept = bytearray()
        async with open_child(argv, env=env, stdin=DEVNULL, stderr=DEVNULL) as child:
            with trio.move_on_after(deadline_s) as scope:
                while len(kept) <= max_bytes and (chunk := await child.stdout.receive_some()):
                    kept += chunk
                if len(kept) <= max_bytes:
                    ended = await child.wait()
                    child.release_nowait()
                    if not ended.ok:
                        raise GitFailed(f"git {args[0]} ended with {ended}")
        if scope.cancelled_caught:
            raise GitTimeout(f"git {args[0]} did not end within {deadline_s:g} s")
        return bytes(kept[:max_bytes]), len(kept) > max_bytes

    def read_ref(self, ref: str) -> str | None:
        """Return the commit under one of our loose refs, without a process; None where there is none.

        Nothing packs the refs of our repositories.
        """
        try:
            return (self.directory / ref).read_text("ascii").strip() or None
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def _command(self, args: Sequence[str], extra: Extra) -> tuple[list[str], dict[str, str]]:
        config = [word for entry in extra.config for word in ("-c", entry)]
        # Bound to our life: a push that outlived us could still arrive after its outcome was asked for.
        bound = ("setpriv", "--pdeathsig", "KILL", "--")
        argv = [*as_user(extra.user), *bound, *extra.prefix, "git", *_FLAGS, *config, *args]
        return argv, {**_ENVIRONMENT, OWNER: str(self.directory), "GIT_DIR": str(self.directory), **extra.env}


def as_user(user: User | None) -> list[str]:
    """Return the words that make a command run as `user`; none for ourselves."""
    if user is None:
        return []
    ids = ("--reuid", str(user.uid), "--regid", str(user.gid))
    # After exec, not by Popen(user=...), which forks the whole process to do it.
    return ["setpriv", *ids, "--clear-groups", "--no-new-privs", "--"]


def complaint(stderr: bytes) -> str:
    """Return the end of what git complained about, in one line fit to be shown."""
    text = " ".join(cleaned(stderr.decode(errors="replace")).split())
    return text[-_STDERR_CHARS:] or "no word of explanation"
