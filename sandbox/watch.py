"""Measure what the kernel does not hold here: memory with nobody's page counted twice, and written files.

A watch comes late by nature: between two looks a tree may take more, so that it ends what runs away and does
not hold what rushes. Both measures may take long on a tree that means it, so they are for a worker thread:

    proportional_bytes(sandbox.processes())                 where `Sandbox.usage` says that it is too much
    survey = Survey(layers.upper, max_depth=64); survey.go_on(2000, 0.05)    slice by slice, until `done`

The invariants: nobody is accused of a page that he shares; no link that an agent made is followed, whatever
it swaps meanwhile; nothing but directories is opened; a survey's memory and descriptors do not grow with the
tree. What the survey cannot see, it does not count: files that are open and have no name any more, and,
except for root, what lies in a directory that its owner has closed. Nor is memory seen that has neither a
name nor an address (a `memfd` that is not mapped). Caller: `orchestrator.supervise`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sandbox.usage import resident_bytes

_BLOCK_BYTES = 512
#: How deep a change is looked for.
_DEPTH = 32
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Survey:
    """The files below a directory, counted while their owner goes on writing; to be closed."""

    def __init__(self, top: Path, *, max_depth: int) -> None:
        """Begin at `top`, which is not counted; nothing happens before `go_on`."""
        #: Of a file with several names each counts for its part.
        self.bytes = 0
        self.files = 0
        #: When something of what was seen changed last, in nanoseconds of the host's clock.
        self.changed_ns = 0
        #: How many directories inside one another were found; what is below `max_depth` is not looked at.
        self.depth = 0
        #: Whether all was seen.
        self.done = False
        self._top: Path | None = top
        self._max_depth = max_depth
        #: The way down to where we are: a descriptor and what is still to come of its listing.
        self._way: list[tuple[int, Iterator[os.DirEntry[str]]]] = []

    def go_on(self, max_entries: int, budget_s: float) -> None:
        """Count some more, until so many names were seen or so much time is gone; never raises `OSError`."""
        ends = time.monotonic() + budget_s
        if self._top is not None:
            self._enter(os.fspath(self._top), None)
            self._top = None
        for _ in range(max_entries):
            if not self._way:
                self.done = True
                return
            self._step()
            if time.monotonic() > ends:
                return

    def _step(self) -> None:
        fd, listing = self._way[-1]
        try:
            entry = next(listing, None)
        except OSError:  # it was removed under us
            entry = None
        if entry is None:
            self._leave()
            return
        self.files += 1
        with contextlib.suppress(OSError):  # the entry is gone already
            status = entry.stat(follow_symlinks=False)
            directory = entry.is_dir(follow_symlinks=False)
            self.changed_ns = max(self.changed_ns, status.st_ctime_ns)
            self.bytes += status.st_blocks * _BLOCK_BYTES // (1 if directory else max(1, status.st_nlink))
            if directory:
                self.depth = max(self.depth, len(self._way))
                if len(self._way) <= self._max_depth:
                    self._enter(entry.name, fd)

    def _enter(self, name: str, parent: int | None) -> None:
        with contextlib.ExitStack() as ours:
            try:
                fd = os.open(name, _OPEN, dir_fd=parent)
                ours.callback(os.close, fd)
                self.changed_ns = max(self.changed_ns, os.fstat(fd).st_ctime_ns)
                listing = os.scandir(fd)
            except OSError:  # it went, became something else meanwhile, or is closed to us
                return
            ours.pop_all()
        self._way.append((fd, listing))

    def _leave(self) -> None:
        fd, listing = self._way.pop()
        listing.close()  # type: ignore[attr-defined] # it is what os.scandir gave
        os.close(fd)

    def close(self) -> None:
        """Let go of all directories."""
        while self._way:
            self._leave()


def latest_change(tops: Iterable[Path], max_entries: int, budget_s: float) -> int:
    """Return when something below these directories changed last, in ns, as far as so many names tell.

    Only whether it has moved means anything: what is changed has the host's time of then.
    """
    latest = 0
    for top in tops:
        with contextlib.closing(Survey(top, max_depth=_DEPTH)) as survey:
            survey.go_on(max_entries, budget_s)
            latest = max(latest, survey.changed_ns)
    return latest


def proportional_bytes(pids: Iterable[int], in_files_bytes: int = 0) -> int:
    """Return the memory of processes, a page that n of them share counting one nth in each.

    They may have mapped what is in the files of their sandbox, and what they share by other means is counted
    with those: it is the larger of both that counts.
    """
    found = [_proportional(pid) for pid in pids]
    shared = sum(shared for _, shared in found)
    return sum(whole for whole, _ in found) - shared + max(shared, in_files_bytes)


def _proportional(pid: int) -> tuple[int, int]:
    """Return all memory of a process, and what of it is shared memory and mapped files in memory."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_bytes()
    except PermissionError:  # a program that may not be looked into
        return resident_bytes(pid), 0
    except OSError:
        return 0, 0
    lines = (line.partition(b":") for line in text.splitlines())
    figures = {name: int(rest.split()[0]) * 1024 for name, _, rest in lines if name in {b"Pss", b"Pss_Shmem"}}
    return figures.get(b"Pss", 0), figures.get(b"Pss_Shmem", 0)
