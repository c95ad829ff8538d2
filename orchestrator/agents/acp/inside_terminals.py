"""Answer an agent's `terminal/*` requests inside its sandbox: commands in the worktree, their output kept.

Given to `python3 -I -S -c` beside `inside_files`. The invariant: whatever a command writes, its end alone is
kept and it never waits; and there are never more than `MAX_TERMINALS`. Nothing here waits: `inside` says when
something came.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

from orchestrator.agents.acp.inside_files import FAILED, INVALID, Refused, confined, text_of

MAX_TERMINALS = 32
MAX_OUTPUT_BYTES = 1024 * 1024
CHUNK_BYTES = 65536


class Terminal:
    """One command, and the end of what it wrote."""

    def __init__(self, root: str, params: dict[str, object]) -> None:
        """Start it; raises `Refused`."""
        argv = [text_of(params, "command"), *_texts(params.get("args"))]
        if len(argv) == 1 and " " in argv[0]:  # agents that take the command for a shell's line
            argv = ["/bin/sh", "-c", argv[0]]
        cwd = params.get("cwd")
        limit = params.get("outputByteLimit")
        self.limit = MAX_OUTPUT_BYTES
        if isinstance(limit, int) and not isinstance(limit, bool):
            self.limit = min(max(limit, 0), MAX_OUTPUT_BYTES)
        self.kept = b""
        self.truncated = False
        #: Requests that wait for the end.
        self.waiting: list[object] = []
        try:
            self.process = subprocess.Popen(
                argv,
                cwd=confined(root, cwd) if isinstance(cwd, str) else root,
                env={**os.environ, **_variables(params.get("env"))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            raise Refused(FAILED, f"cannot start {argv[0][:200]!r}: {error}") from None
        assert self.process.stdout is not None  # noqa: S101 - it is a pipe
        self.out: int | None = self.process.stdout.fileno()
        os.set_blocking(self.out, False)

    def absorb(self) -> None:
        """Take what it wrote; called where there is something, or after its end."""
        while self.out is not None:
            try:
                chunk = os.read(self.out, CHUNK_BYTES)
            except BlockingIOError:
                return
            self.kept += chunk
            if len(self.kept) > self.limit:
                self.truncated = True
                self.kept = self.kept[len(self.kept) - self.limit :]
            if not chunk:
                self.close()
            elif len(chunk) < CHUNK_BYTES:
                return

    def close(self) -> None:
        """Hear no more of it."""
        if self.out is not None and self.process.stdout is not None:
            self.out = None
            self.process.stdout.close()

    def status(self) -> dict[str, object] | None:
        """Return how it ended, or None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        if code < 0:
            return {"exitCode": None, "signal": _name(-code)}
        return {"exitCode": code, "signal": None}

    def kill(self) -> None:
        """End it, and what it started in its session's group."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def output(self) -> dict[str, object]:
        """Answer `terminal/output`: cut at the begin of a character."""
        self.absorb()
        kept = self.kept
        if self.truncated:
            while kept and kept[0] & 0xC0 == 0x80:
                kept = kept[1:]
        return {
            "output": kept.decode("utf-8", "replace"),
            "truncated": self.truncated,
            "exitStatus": self.status(),
        }


class Terminals:
    """All that live, by id."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._made = 0
        self.live: dict[str, Terminal] = {}

    def create(self, params: dict[str, object]) -> dict[str, object]:
        """Answer `terminal/create`."""
        if len(self.live) >= MAX_TERMINALS:
            raise Refused(FAILED, f"{MAX_TERMINALS} terminals are open: release some")
        terminal = Terminal(self._root, params)
        self._made += 1
        self.live[f"t{self._made}"] = terminal
        return {"terminalId": f"t{self._made}"}

    def find(self, params: dict[str, object]) -> Terminal:
        """Return the terminal of that id."""
        terminal = self.live.get(text_of(params, "terminalId"))
        if terminal is None:
            raise Refused(INVALID, "there is no such terminal")
        return terminal

    def release(self, params: dict[str, object]) -> Terminal:
        """Let go of one: it is ended, and its id is nobody's."""
        terminal = self.find(params)
        del self.live[text_of(params, "terminalId")]
        terminal.kill()
        terminal.process.wait()
        terminal.close()
        return terminal


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _variables(value: object) -> dict[str, str]:
    found = {}
    for one in value if isinstance(value, list) else []:
        if isinstance(one, dict) and isinstance(one.get("name"), str) and isinstance(one.get("value"), str):
            found[one["name"]] = one["value"]
    return found


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
