"""Do inside a sandbox what a model asks for: a shell that lives on, and work on files.

`hands` gives this text, `tool_shell` and `tool_files` to `python3 -I -S -c`, so they stand on the standard
library of any Python 3.8. Frames are a length (4 bytes, big-endian) and JSON: inward `{"id", "tool", "input",
"seconds"}` or `{"cancel": id}`, outward `{"id", "ok", "text"}`. The invariant: nothing that a model starts
has a descriptor of the protocol, or holds up an answer by a pipe that it keeps open; and a call that is
cancelled leaves nothing of its session alive.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import struct
import sys

from orchestrator.agents.claude.tool_files import FILE_TOOLS, ToolError, answer_in_time
from orchestrator.agents.claude.tool_shell import Shell

MAX_REQUEST_BYTES = 32 * 1024 * 1024
CHUNK_BYTES = 65536
TICK_MS = 100
PR_SET_DUMPABLE = 4


class Gone(Exception):
    """Whoever asks has gone."""


class Wire:
    """The way to the supervisor."""

    def __init__(self) -> None:
        self.fd, self._out = os.dup(0), os.dup(1)  # nobody inherits these
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        self._buffer = b""

    def read(self) -> None:
        """Take what has come."""
        chunk = os.read(self.fd, CHUNK_BYTES)
        if not chunk:
            raise Gone
        self._buffer += chunk

    def next(self) -> dict[str, object] | None:
        """Return the next whole message, if it is there."""
        if len(self._buffer) < 4:
            return None
        (size,) = struct.unpack(">I", self._buffer[:4])
        if size > MAX_REQUEST_BYTES:
            raise Gone
        if len(self._buffer) < 4 + size:
            return None
        body, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
        return dict(json.loads(body))

    def send(self, message: dict[str, object]) -> None:
        """Send one message."""
        body = json.dumps(message).encode()
        data = struct.pack(">I", len(body)) + body
        while data:
            data = data[os.write(self._out, data) :]


class Server:
    """Answers one call after the other."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._shell: Shell | None = None
        self._cancelled: object = None

    def serve(self) -> None:
        """Answer calls until nobody asks any more."""
        while True:
            message = self._wire.next()
            if message is None:
                self._wait(running=False)
            elif "tool" in message:
                self._wire.send({"id": message["id"], **self._answer(message)})

    def _wait(self, *, running: bool) -> None:
        """Wait for the supervisor or the shell: for a tick, or longer where no command runs."""
        poll, shell = select.poll(), self._shell
        poll.register(self._wire.fd, select.POLLIN)
        if shell is not None:
            if not shell.silent:
                poll.register(shell.out, select.POLLIN)
            if running:
                poll.register(shell.status, select.POLLIN)
            if shell.unsent:
                poll.register(shell.stdin, select.POLLOUT)
        ready = {fd for fd, _ in poll.poll(TICK_MS if running else None)}
        if self._wire.fd in ready:
            self._wire.read()
        if shell is not None and shell.out in ready:
            shell.absorb()
        if shell is not None and shell.stdin in ready:
            shell.send()

    def _drop(self) -> None:
        if self._shell is not None:
            self._shell.end()
            self._shell = None

    def _answer(self, message: dict[str, object]) -> dict[str, object]:
        given = message.get("input")
        try:
            if not isinstance(given, dict):
                raise ToolError("the input is no object")
            if message["tool"] == "bash":
                return {"ok": True, "text": self._bash(message["id"], given)}
            return {
                "ok": True,
                "text": answer_in_time(
                    FILE_TOOLS[str(message["tool"])], given, float(str(message["seconds"]))
                ),
            }
        except ToolError as error:
            return {"ok": False, "text": str(error)}
        except OSError as error:  # no process or no memory is left for a shell
            return {"ok": False, "text": f"Error: {error}"}

    def _bash(self, call: object, given: dict[str, object]) -> str:
        if given.get("restart"):
            self._drop()
            return "tool has been restarted."
        command = given.get("command")
        if not isinstance(command, str) or "\0" in command:
            raise ToolError("command: a text without NUL is needed")
        if self._shell is not None and self._shell.over():
            self._drop()
        shell = self._shell = self._shell or Shell()
        mark = shell.begin(command)
        while (status := shell.ended(mark)) is None:
            over = shell.over()
            if over and (status := shell.ended(mark)) is not None:
                break
            if over or self._is_cancelled(call):
                said = shell.drain()
                self._drop()
                raise ToolError(said + ("\n" if said else "") + (ENDED if over else CANCELLED))
            self._wait(running=True)
        said = shell.drain()
        return said if status == 0 else f"{said}\n[exit status {status}]"

    def _is_cancelled(self, call: object) -> bool:
        message = self._wire.next()
        return message is not None and message.get("cancel") == call


ENDED = "[the shell has ended; the next command begins in a new one]"
CANCELLED = (
    "[the time of this call is over: the shell and what it had started were killed; "
    "the next command begins in a new one]"
)


def hide() -> None:
    """Keep what runs beside this process from its descriptors and its memory, where the kernel lets us."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def main() -> None:
    """Serve until the input ends."""
    wire = Wire()
    hide()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda *_: None)  # `pkill python` is meant for others; a shell gets the default
    wire.send({"ready": sys.version.split()[0]})
    with contextlib.suppress(Gone, BrokenPipeError):
        Server(wire).serve()


if __name__ == "__main__":
    main()
