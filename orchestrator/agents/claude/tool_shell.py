"""A shell that lives on inside a sandbox, and what it writes; a part of `tool_server`.

It runs inside a sandbox: standard library of any Python 3.8. The invariant: a command is told by the shell to
have ended, never by the end of its output, so nothing that stays behind holds it up; and `end` leaves nothing
of the shell's session alive.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
import shutil
import signal
from collections import deque

from orchestrator.agents.claude.tool_files import CAP, ToolError

CHUNK_BYTES = 65536
#: What background processes write without end is read for so long after a command has ended.
DRAIN_BYTES = 1024 * 1024
#: Where the shell says that a command has ended; the command itself finds it closed.
STATUS_FD = 9
#: Descriptors from here on are no target of ours.
LIFTED_FD = 20
#: Rounds of stopping what descends from a shell: what forks faster is left to the end of the sandbox.
ROUNDS = 50


class Capture:
    """The beginning and the end of what a command writes."""

    def __init__(self) -> None:
        self._head = b""
        self._tail: deque[bytes] = deque()
        self._held = self.total = 0

    def add(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.total += len(chunk)
        room = CAP // 2 - len(self._head)
        self._head += chunk[:room]
        if rest := chunk[room:]:
            self._tail.append(rest)
            self._held += len(rest)
        while self._tail and self._held - len(self._tail[0]) >= CAP // 2:
            self._held -= len(self._tail.popleft())

    def text(self) -> str:
        """Return both, with a mark where something was cut."""
        tail = b"".join(self._tail)[-(CAP // 2) :]
        cut = self.total - len(self._head) - len(tail)
        mark = f"\n[{cut} bytes of output were cut here]\n".encode() if cut else b""
        return (self._head + mark + tail).decode("utf-8", "replace")


class Shell:
    """A shell in a session of its own."""

    def __init__(self) -> None:
        program = shutil.which("bash") or shutil.which("sh")
        if program is None:
            raise ToolError("there is no bash and no sh in this sandbox: use the other tools")
        ends = [_lifted(fd) for _ in range(3) for fd in os.pipe()]
        commands, self.stdin, self.out, output, self.status, status = ends
        bash = program.endswith("bash")
        self.pid = os.posix_spawn(
            program,
            [program, "--noprofile", "--norc"] if bash else [program],
            dict(os.environ),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, commands, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
                (os.POSIX_SPAWN_DUP2, status, STATUS_FD),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
        for fd in (commands, output, status):
            os.close(fd)
        for fd in (self.stdin, self.out, self.status):
            os.set_blocking(fd, False)
        self.written = Capture()
        #: Whether nobody holds its output any more.
        self.silent = False
        self.unsent = b""
        self._said = b""
        self._over = False

    def begin(self, command: str) -> bytes:
        """Return the mark by which it will tell the command's status, once it has read what is `unsent`."""
        mark = secrets.token_hex(16)
        self.unsent = (
            f"eval {shlex.quote(command)} </dev/null {STATUS_FD}>&-\n"
            f"printf '\\n%s %s\\n' {mark} \"$?\" >&{STATUS_FD}\n"
        ).encode("utf-8", "replace")
        return mark.encode()

    def send(self) -> None:
        """Let it read as much as it takes."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            self.unsent = self.unsent[os.write(self.stdin, self.unsent) :]

    def ended(self, mark: bytes) -> int | None:
        """Return the status of the command, once the shell has told it."""
        with contextlib.suppress(BlockingIOError):
            self._said = (self._said + os.read(self.status, CHUNK_BYTES))[-CHUNK_BYTES:]
        for line in self._said.split(b"\n")[:-1]:
            word, _, status = line.partition(b" ")
            if word == mark and status.isdigit():
                return int(status)
        return None

    def absorb(self) -> bool:
        """Take what was written; return whether there may be more at once."""
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(self.out, CHUNK_BYTES)
            self.written.add(chunk)
            self.silent = not chunk
            return bool(chunk)
        return False

    def drain(self) -> str:
        """Return all that was written by now, and begin anew."""
        left = DRAIN_BYTES
        while left > 0 and self.absorb():
            left -= CHUNK_BYTES
        text, self.written = self.written.text(), Capture()
        return text

    def over(self) -> bool:
        """Whether the shell itself has ended."""
        self._over = self._over or os.waitpid(self.pid, os.WNOHANG)[0] != 0
        return self._over

    def end(self) -> None:
        """Kill the shell's session and all that descends from it."""
        stopped: set[int] = set()
        for _ in range(ROUNDS):
            fresh = _tree_of(self.pid) - stopped
            if not fresh:
                break
            for pid in fresh:
                _signal(pid, signal.SIGSTOP)
            stopped |= fresh
        for pid in stopped:
            _signal(pid, signal.SIGKILL)
        if not self._over:
            _signal(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._over = True
        self.close()

    def close(self) -> None:
        """Close our ends."""
        for fd in (self.stdin, self.out, self.status):
            os.close(fd)


def _lifted(fd: int) -> int:
    """Return the same file under a number that is no target of ours."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LIFTED_FD)
    os.close(fd)
    return high


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _tree_of(session: int) -> set[int]:
    """Return the live processes of a session, and whatever descends from them."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
            state, parent, _, its_session = file.read().rpartition(b")")[2].split()[:4]
            if state not in b"ZX":
                parents[int(name)] = int(parent)
                if int(its_session) == session:
                    found.add(int(name))
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return found
