"""The processes of this machine as a test sees them from outside: by marks in what they were started with."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

#: The field of /proc/PID/stat that holds the start, counted after the command's name.
_START_FIELD = 19


def fresh_mark(word: str) -> str:
    """Return a mark that no process can carry yet."""
    return f"{word}-{secrets.token_hex(6)}"


def _stat(pid: str) -> list[str]:
    """Return what follows the name in /proc/PID/stat: the state first."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


_BEGAN = int(_stat("self")[_START_FIELD])


def environments() -> Iterator[tuple[int, bytes]]:
    """Yield the live processes that are younger than this one, each with its environment and command line.

    What is older was started by nobody here, and may hold any word.
    """
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            stat = _stat(entry)
            if stat[0] in "ZX" or int(stat[_START_FIELD]) <= _BEGAN:
                continue
            said = Path(f"/proc/{entry}/environ").read_bytes() + Path(f"/proc/{entry}/cmdline").read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        yield int(entry), said


def marked(mark: str) -> list[int]:
    """Return the live processes, younger than this one, with a mark in their environment or command line."""
    return [pid for pid, said in environments() if mark.encode() in said]
