"""What stands in the place of a mirror and is none: a file, a link, a pipe, a directory of somebody else's.

Somebody's hand put it there, so it may be all that there is of something. The invariant: it is moved aside by
its own name, never opened, followed, written to or removed, and nothing of ours ever stands in its way.
Called by `mirrors`, `shelf` and `renewal`.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
from pathlib import Path

log = logging.getLogger(__name__)

#: What begins the name of one that was moved aside; people remove it.
STRANGE = "strange-"
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory of another user",
}


def squatter(place: Path) -> str | None:
    """Return what stands there that is no directory of ours, in words; None for that, or for nothing."""
    try:
        found = os.lstat(place)
    except OSError:
        return None
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        return None
    return f"{_KINDS.get(stat.S_IFMT(found.st_mode), 'a device')} stands in its place"


def clear_place(place: Path) -> str | None:
    """Move aside what stands in the place of a mirror and is none; return in words what that was, if any."""
    why = squatter(place)
    if why is None:
        return None
    aside = place.with_name(f"{STRANGE}{place.name}-{secrets.token_hex(8)}")
    place.rename(aside)
    log.warning("the place of a mirror was taken", extra={"why": why, "moved_to": str(aside)})
    return why
