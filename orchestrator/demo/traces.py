"""What the demo could leave behind, looked for from outside: processes, mounts, files, sockets, a port.

The invariant: nothing here asks the supervisor; /proc and the file system answer. Called by
`orchestrator.demo.play` and `orchestrator.demo.command`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.cli.timeline import plural


def count_marked(*marks: str) -> int:
    """Count the live processes that carry one of the marks in their environment, zombies and us apart."""
    found = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended, or it is another user's and none of ours
            state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
            environment = (entry / "environ").read_bytes()
            found += state not in {b"Z", b"X"} and any(mark.encode() in environment for mark in marks)
    return found


def leftovers(root: Path, marks: tuple[str, ...], url: str) -> list[str]:
    """Return what is left of a stage that should be gone, one line each."""
    found = []
    if processes := count_marked(*marks):
        found.append(f"{plural(processes, 'process')} with the demo's mark")
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    found += [f"mount on {point}" for line in mounts if (point := line.split(" ")[4]).startswith(str(root))]
    if root.exists():
        found.append(f"directory {root}")
    if url and _answers(url):
        found.append(f"something still listens on {url}")
    return found


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=1.0):
            return True
    except OSError:
        return False
