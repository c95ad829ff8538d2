"""Find the cgroup (v2) that this process is in, and say whether what is below it is ours to make.

The invariant: nothing is called ours that another program keeps. Under systemd that is only what it marked as
delegated (`Delegate=yes`); elsewhere, in a container or on a host with a cgroup v2 beside the older ones,
what the file's permissions allow. Only looks, and never writes. Caller: `sandbox.probe`.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from sandbox.base import SandboxError

_SYSTEMD = Path("/run/systemd/system")
#: How systemd marks what it delegates: the one for the system's manager, the other for a user's.
_MARKS = ("trusted.delegate", "user.delegate")


class CgroupsUnavailable(SandboxError):
    """Cgroups cannot be used here."""


def own_cgroup(mountinfo: str, membership: str) -> Path:
    """Return the directory of our cgroup, from /proc/self/mountinfo and /proc/self/cgroup.

    Raises `CgroupsUnavailable` where no mounted hierarchy of version 2 shows it.
    """
    path = next((line[3:] for line in membership.splitlines() if line.startswith("0::")), None)
    if path is None:
        raise CgroupsUnavailable("this kernel has no cgroup v2")
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if right.split(" ")[0] != "cgroup2":
            continue
        shown, point = (_plain(field) for field in left.split(" ")[3:5])
        if path == shown or path.startswith(shown.rstrip("/") + "/"):
            return Path(point + "/" + path[len(shown.rstrip("/")) :])
    raise CgroupsUnavailable("no cgroup v2 is mounted that shows ours (mount -t cgroup2)")


def find_delegated() -> Path:
    """Return our cgroup, if what is below it is ours; raises `CgroupsUnavailable` with what would help."""
    directory = own_cgroup(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    procs = directory / "cgroup.procs"
    if not os.access(directory, os.W_OK | os.X_OK) or not os.access(procs, os.W_OK):
        raise CgroupsUnavailable(
            f"{directory} cannot be written by uid {os.geteuid()} (Delegate=yes in the service's unit)"
        )
    if _SYSTEMD.is_dir() and not _marked(directory):
        raise CgroupsUnavailable(f"systemd keeps {directory} itself (Delegate=yes in the service's unit)")
    return directory


def instance_of(home: Path) -> str:
    """Return a name for the instance whose state is in `home`: the same at each start, and nobody else's."""
    status = home.stat()
    said = f"{home.resolve()}\0{status.st_dev}\0{status.st_ino}"
    return hashlib.sha256(os.fsencode(said)).hexdigest()[:16]


def _marked(directory: Path) -> bool:
    for name in _MARKS:
        try:
            if os.getxattr(directory, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _plain(field: str) -> str:
    """Return a field of mountinfo without its octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)
