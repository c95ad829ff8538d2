"""How many processes live in a sandbox's PID namespace, by one look into the /proc that is mounted inside.

The kernel lists a namespace whole, orphans too, in a fraction of the time that a walk from parent to child
takes; a kill counts before its SIGKILL. The invariant: /proc is found through the root of the namespace's own
init, a program of ours; whatever the agent makes of its own root is not asked. Caller: `sandbox.confined`.
"""

from __future__ import annotations

import os

from sandbox.procfs import children

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: The inode number of the root of every procfs.
_PROC_ROOT = 1
_STAT_BYTES = 1024


def count_inside(outer: int) -> int | None:
    """Return how many processes live in the namespace whose init is the child of `outer`, that one left out.

    None where the kernel does not let us see: the caller has to walk.
    """
    inits = children(outer)
    if len(inits) != 1:  # it is about to begin, or to end
        return None
    try:
        place = os.open(f"/proc/{inits[0]}/root/proc", _OPEN)
    except OSError:
        return None
    try:
        names = [name for name in os.listdir(place) if name.isdigit()]  # noqa: PTH208 - names
        if os.fstat(place).st_ino != _PROC_ROOT or "1" not in names or _is_ours(place):
            return None
        return sum(_lives(place, name) for name in names) - 1
    except OSError:
        return None
    finally:
        os.close(place)


def _is_ours(place: int) -> bool:
    """Return whether it shows the namespace in which we are ourselves, with all the others."""
    try:
        os.readlink("self", dir_fd=place)
    except FileNotFoundError:
        return False
    return True


def _lives(place: int, name: str) -> bool:
    """Return whether it is more than an exit status that nobody has collected yet."""
    try:
        os.readlink(f"{name}/exe", dir_fd=place)
    except FileNotFoundError:  # it has no memory any more, unless other threads than its first go on
        return _has_threads(place, name)
    except ProcessLookupError:
        return False
    except OSError:  # not ours to know, so it has one
        return True
    return True


def _has_threads(place: int, name: str) -> bool:
    try:
        fd = os.open(f"{name}/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
    except OSError:
        return False
    try:
        line = os.read(fd, _STAT_BYTES)
    except OSError:
        return False
    finally:
        os.close(fd)
    fields = line[line.rfind(b")") + 2 :].split(None, 18)
    return fields[0] not in {b"Z", b"X", b"x"} or int(fields[17]) > 1
