"""Which files of the base an agent has changed so far, by the names in its worktree's upper layer.

The invariant: names only, no link is followed and nothing is opened but directories; it ends after so many
names, whatever an agent has made. New files are not told: they may be no part of its work. Called by
`supervise.radar`, in a thread.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, suppress

from sandbox.base import Directory, Layers

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH = 64


def footprint(workspace: Layers | Directory, most: int) -> frozenset[str]:
    """Return the files of the base that stand in the upper layer; none where there is no such layer.

    Looks at no more than ten times `most` names.
    """
    if isinstance(workspace, Directory):
        return frozenset()
    found: set[str] = set()
    left = most * 10
    pending = [""]
    while pending and left > 0 and len(found) < most:
        place = pending.pop()
        with ExitStack() as opened:
            try:
                upper = _open(opened, str(workspace.upper), place)
                lower = _open(opened, str(workspace.lower), place)
                names = os.listdir(upper)  # noqa: PTH208 - of a descriptor
            except OSError:  # closed to us, gone, no directory on both sides
                continue
            for name in names[:left]:
                path = f"{place}/{name}" if place else name
                with suppress(OSError):
                    mode = os.stat(name, dir_fd=lower, follow_symlinks=False).st_mode
                    is_both = stat.S_ISDIR(mode) and _is_directory(upper, name)
                    if is_both and path.count("/") < _MAX_DEPTH:
                        pending.append(path)
                    elif not stat.S_ISDIR(mode):
                        found.add(os.fsencode(path).decode(errors="replace"))
            left -= len(names)
    return frozenset(found)


def _is_directory(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _open(opened: ExitStack, top: str, path: str) -> int:
    """Return a descriptor of a directory below `top`, reached step by step without following a link."""
    fd = os.open(top, _DIRECTORY)
    opened.callback(os.close, fd)
    for name in filter(None, path.split("/")):
        fd = os.open(name, _DIRECTORY, dir_fd=fd)
        opened.callback(os.close, fd)
    return fd
