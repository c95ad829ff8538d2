"""Stand between an agent and the supervisor, inside the sandbox: start the one, and pass on what they say.

`link` gives this text, with the other parts named `inside_*`, to `python3 -I -S -c`. The agent speaks
lines of JSON-RPC, and so does this program, outward. What asks for files and terminals is answered here, so
the supervisor never follows a path of the agent's, and a flood of output stays where it is. Lines that are
no message, what the agent says on its standard error, and how it ended are told by notifications whose names
begin with `_sandbox/`, which the agent cannot send. The invariant: no descriptor blocks, and what waits to be
written is bounded, by not reading on. Stands on the standard library of any Python 3.8.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys

from orchestrator.agents.acp.inside_files import FAILED, INVALID, Refused, keep, read_text, recall, write_text
from orchestrator.agents.acp.inside_pipes import (
    CHUNK_BYTES,
    LIGHT_BYTES,
    MAX_LINE_BYTES,
    Lines,
    Pipe,
    lightened,
)
from orchestrator.agents.acp.inside_terminals import Terminal, Terminals

#: What may wait to be written before nothing more is read that could add to it.
HIGH_BYTES = 4 * 1024 * 1024
LAST_CHUNKS = 64
PR_SET_DUMPABLE = 4
SERVED = {"fs/read_text_file": read_text, "fs/write_text_file": write_text}


class Companion:
    """The agent, what it asks for, and the way to the supervisor."""

    def __init__(self, argv: list[str], up: int, down: int) -> None:
        self._root = os.path.realpath(os.getcwd())
        self._session: object = None
        self._up_in, self._up = up, Pipe(down)
        self._terminals = Terminals(self._root)
        self._from_above, self._from_agent = Lines(), Lines()
        self._wake, wake = os.pipe()
        for fd in (self._wake, wake):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._tell("ready", {"kept": recall()})
        self._agent = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        assert self._agent.stdin is not None  # noqa: S101 - all three are pipes
        assert self._agent.stdout is not None  # noqa: S101
        assert self._agent.stderr is not None  # noqa: S101
        self._down = Pipe(self._agent.stdin.fileno())
        self._out, self._err = self._agent.stdout.fileno(), self._agent.stderr.fileno()
        self._open = {self._up_in, self._out, self._err}
        for fd in self._open:
            os.set_blocking(fd, False)

    # --- the loop -------------------------------------------------------------------------------------------

    def serve(self) -> int:
        """Pass on until the agent has ended or the supervisor has gone; return the agent's status."""
        while self._up_in in self._open:
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            for fd in self._wanted():
                poll.register(fd, select.POLLIN)
            for pipe in (self._up, self._down):
                if pipe.waiting:
                    poll.register(pipe.fd, select.POLLOUT)
            for terminal in self._terminals.live.values():
                if terminal.out is not None:
                    poll.register(terminal.out, select.POLLIN)
            ready = {fd for fd, _ in poll.poll()}
            for pipe in (self._up, self._down):
                pipe.flush()
            self._look(ready)
            status = self._agent.poll()
            if status is not None:
                return self._end(status)
        return 0

    def _wanted(self) -> list[int]:
        """Return what may be read now without more waiting to be written than there is room for."""
        wanted = []
        if len(self._down.waiting) < HIGH_BYTES:
            wanted.append(self._up_in)
            if len(self._up.waiting) < HIGH_BYTES:
                wanted += [self._out, self._err]
        return [fd for fd in wanted if fd in self._open]

    def _look(self, ready: set[int]) -> None:
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, CHUNK_BYTES)
            self._report_ended()
        if self._up_in in ready:
            for line in self._from_above.feed(self._read(self._up_in)):
                self._take_from_above(line)
        if self._out in ready:
            self._take_output()
        if self._err in ready and (said := self._read(self._err)):
            self._tell("said", {"text": said.decode("utf-8", "replace")})
        for terminal in self._terminals.live.values():
            if terminal.out in ready:
                terminal.absorb()

    def _read(self, fd: int) -> bytes:
        try:
            chunk = os.read(fd, CHUNK_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            chunk = b""
        if not chunk:
            self._open.discard(fd)
        return chunk

    def _end(self, status: int) -> int:
        """Pass on the agent's last words, and how it ended."""
        for fd in (self._out, self._err):
            for _ in range(LAST_CHUNKS):  # others may still hold the pipe, and write
                chunk = self._read(fd) if fd in self._open else b""
                if not chunk:
                    break
                if fd == self._out:
                    self._pass_on(chunk)
                else:
                    self._tell("said", {"text": chunk.decode("utf-8", "replace")})
        self._tell("ended", {"status": status})
        os.set_blocking(self._up.fd, True)
        self._up.flush()
        return status

    # --- messages -------------------------------------------------------------------------------------------

    def _tell(self, what: str, params: dict[str, object]) -> None:
        self._up.send({"jsonrpc": "2.0", "method": "_sandbox/" + what, "params": params})

    def _take_from_above(self, line: bytes) -> None:
        message = json.loads(line)
        method = message.get("method")
        if method == "_sandbox/keep":
            keep(message.get("params"))
            self._session = message["params"]["session"]
        elif method == "_sandbox/finish":
            self._down.close()
            if self._agent.stdin is not None:
                self._agent.stdin.close()
        else:
            self._down.send_line(line)

    def _take_output(self) -> None:
        self._pass_on(self._read(self._out))

    def _pass_on(self, chunk: bytes) -> None:
        dropped = self._from_agent.dropped
        for line in self._from_agent.feed(chunk):
            self._take(line)
        if self._from_agent.dropped > dropped:
            self._tell("note", {"text": f"a line of more than {MAX_LINE_BYTES} bytes was thrown away"})

    def _take(self, line: bytes) -> None:
        """Answer, pass on or report one line of the agent's."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            if line.strip():
                self._tell("garbage", {"text": line[:2000].decode("utf-8", "replace")})
            return
        method = message.get("method")
        if isinstance(method, str) and method.startswith("_sandbox/"):
            self._tell("garbage", {"text": "the agent speaks in the name of its sandbox: " + method[:200]})
        elif isinstance(method, str) and method.startswith(("fs/", "terminal/")):
            self._serve_one(method, message)
        elif len(line) > LIGHT_BYTES:
            self._up.send(lightened(message))
        else:
            self._up.send_line(line)

    def _serve_one(self, method: str, message: dict[str, object]) -> None:
        number, params = message.get("id"), message.get("params")
        if number is None:
            return
        try:
            if (
                not isinstance(params, dict)
                or self._session is None
                or params.get("sessionId") != self._session
            ):
                raise Refused(INVALID, "sessionId: there is no such session")
            answer = self._answer(method, number, params)
        except Refused as refused:
            self._tell("refused", {"method": method[:100], "why": refused.message[:500]})
            self._fail(number, refused.code, refused.message)
        except (OSError, ValueError) as error:
            self._fail(number, FAILED, str(error))
        else:
            if answer is not None:
                self._down.send({"jsonrpc": "2.0", "id": number, "result": answer})

    def _fail(self, number: object, code: int, why: str) -> None:
        self._down.send({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": why}})

    def _answer(self, method: str, number: object, params: dict[str, object]) -> dict[str, object] | None:
        """Return the result; None where it comes later."""
        if method in {"fs/read_text_file", "fs/write_text_file", "terminal/create"}:
            named = params.get("path" if method.startswith("fs/") else "command")
            self._tell("served", {"method": method, "what": str(named)[:300]})
        if method in SERVED:
            return SERVED[method](self._root, params)
        if method == "terminal/create":
            return self._terminals.create(params)
        if method == "terminal/release":
            released = self._terminals.release(params)
            self._report(released)
            return {}
        if method not in {"terminal/output", "terminal/kill", "terminal/wait_for_exit"}:
            raise Refused(-32601, "there is no method " + method[:100])
        terminal = self._terminals.find(params)
        if method == "terminal/output":
            return terminal.output()
        if method == "terminal/kill":
            terminal.kill()
            return {}
        if terminal.status() is None:
            terminal.waiting.append(number)
        return terminal.status()

    def _report_ended(self) -> None:
        for terminal in self._terminals.live.values():
            if terminal.status() is not None:
                terminal.absorb()
                self._report(terminal)

    def _report(self, terminal: Terminal) -> None:
        """Answer those who wait for a terminal that has ended."""
        for number in terminal.waiting:
            self._down.send({"jsonrpc": "2.0", "id": number, "result": terminal.status()})
        terminal.waiting.clear()


def main(argv: list[str]) -> int:
    """Start the agent and serve; end as it ended."""
    up, down = os.dup(0), os.dup(1)  # nobody inherits these
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    with contextlib.suppress(OSError, AttributeError):  # the agent cannot reach into this process
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    try:
        companion = Companion(argv, up, down)
    except OSError as error:
        line = json.dumps({"jsonrpc": "2.0", "method": "_sandbox/missing", "params": {"why": str(error)}})
        os.set_blocking(down, True)
        os.write(down, line.encode() + b"\n")
        return 127
    status = companion.serve()
    if status < 0:
        with contextlib.suppress(OSError):  # there is none for SIGKILL
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
