"""Find a tree that is beyond a ceiling which the kernel does not keep here, so that its owner can end it.

A watch comes late by nature: between two looks a tree may take more, so that it ends what runs away and does
not hold what rushes. Whoever runs a tree asks every second or so, and ends it by `kill_nowait`:

    excess = find_excess(sandbox, spec.limits, backend.watched)              the moment's memory, processes
    excess = await find_disk_excess(layers.upper, spec.limits, ...)          the files written, now and then

The invariant: nobody is accused of a page that he shares, and nothing that an agent wrote is followed or
opened. What a sandbox holds in `/tmp`, its home and `/dev/shm` is bounded by their sizes, beside `memory_mb`.
Caller: whoever runs agents.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from sandbox.base import MIB, Limits, Usage
from sandbox.usage import resident_bytes

#: Names and directories looked at between two checkpoints; and the most of all, beyond which it is too much.
_STRIDE = 200
MAX_ENTRIES = 2_000_000
_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class Excess:
    """One ceiling that is passed: the field of `Limits`, what is used and what may be, in its unit."""

    field: str
    used: int
    ceiling: int

    def __str__(self) -> str:
        return f"{self.field}: {self.used} used, {self.ceiling} allowed"


class Measured(Protocol):
    """What can be measured: a `Sandbox`, or several as one."""

    def usage(self) -> Usage:
        """Return what it uses now."""
        ...

    def processes(self) -> list[int]:
        """Return the host pids of what lives in it."""
        ...


def find_excess(tree: Measured, limits: Limits, watched: frozenset[str]) -> Excess | None:
    """Return the watched ceiling that the tree is beyond now: memory first, then processes.

    Cheap while all is well; the exact memory is asked for only where the sum is already too much.
    """
    used = tree.usage()
    if "memory_mb" in watched and limits.memory_mb is not None:
        allowed = limits.memory_mb * MIB
        if used.memory_bytes > allowed and (exact := proportional_bytes(tree.processes())) > allowed:
            return Excess("memory_mb", exact // MIB, limits.memory_mb)
    if "pids" in watched and limits.pids is not None and used.processes > limits.pids:
        return Excess("pids", used.processes, limits.pids)
    return None


async def find_disk_excess(written: Path, limits: Limits, watched: frozenset[str]) -> Excess | None:
    """Return whether what was written below a directory is beyond `disk_mb`; stops where it is sure."""
    if "disk_mb" not in watched or limits.disk_mb is None:
        return None
    used = await disk_bytes(written, limits.disk_mb * MIB)
    return Excess("disk_mb", used // MIB, limits.disk_mb) if used > limits.disk_mb * MIB else None


async def disk_bytes(directory: Path, enough: int) -> int:
    """Return the bytes on disk below a directory, each file once; beyond `enough` it stops counting.

    A tree that is too deep to be named, or has more than `MAX_ENTRIES` names, is more than enough.
    """
    found = looked = 0
    seen: set[int] = set()
    waiting = [os.fspath(directory)]
    while waiting and found <= enough:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    looked += 1
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink == 1 or status.st_ino not in seen:
                        found += status.st_blocks * _BLOCK_BYTES
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif status.st_nlink > 1:
                        seen.add(status.st_ino)
                    if looked % _STRIDE == 0:
                        await trio.lowlevel.checkpoint()
                    if looked > MAX_ENTRIES:
                        return max(found, enough + 1)
        except (FileNotFoundError, PermissionError):  # it went meanwhile, or was closed by its owner
            continue
        except OSError:  # ENAMETOOLONG: nobody's work is that deep
            return max(found, enough + 1)
    await trio.lowlevel.checkpoint()
    return found


def proportional_bytes(pids: Iterable[int]) -> int:
    """Return the memory of processes, a page that n of them share counting one nth in each."""
    return sum(_proportional(pid) for pid in pids)


def _proportional(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_bytes()
    except PermissionError:  # a program that may not be looked into
        return resident_bytes(pid)
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(b"Pss:")), 0)
