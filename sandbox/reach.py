"""Whether a user may get at a path of the host, as the modes of its directories say.

Callers: whoever names a path that agents are to see: `orchestrator doctor`, and the runtimes.
"""

from __future__ import annotations

from pathlib import Path

from sandbox.base import User


def closed_to(user: User, path: Path) -> Path | None:
    """Return the first directory on the way to a path that a user may not enter; None where there is none.

    What is not there yet is not looked at: it is made with the right mode.
    """
    for directory in reversed((path, *path.parents)):
        if not directory.exists():
            return None
        status = directory.stat()
        bit = 0o100 if status.st_uid == user.uid else 0o010 if status.st_gid == user.gid else 0o001
        if not status.st_mode & bit:
            return directory
    return None
