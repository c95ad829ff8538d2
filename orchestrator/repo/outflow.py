"""Read every object that a push would bring to the remote, as one stream, without holding any of them.

The invariant: a stream that was finished held every object between the base and the tip, with commits and
trees; one that broke off raises. Callers: `quarantine`, for the scan before anything leaves it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from orchestrator.errors import GitFailed
from orchestrator.repo.git import Extra, Git
from sandbox.process import DEVNULL, Child

#: One object: its id, type, size in bytes and the path it was come by under, a line feed, its content.
FORMAT = "%(objectname) %(objecttype) %(objectsize) %(rest)"


@dataclass(frozen=True, slots=True)
class ObjectStream:
    """The objects, to be read from a descriptor by a process that is given it."""

    fd: int
    _children: Sequence[Child]

    async def finish(self) -> None:
        """Wait until all has been written, once its reader has seen the end; raises `GitFailed`."""
        for child in self._children:
            ended = await child.wait()
            child.release_nowait()
            if not ended.ok:
                raise GitFailed(f"git could not list or read the objects: it ended with {ended}")


@asynccontextmanager
async def open_objects(
    git: Git, *revisions: str, prefix: Sequence[str]
) -> AsyncGenerator[ObjectStream, None]:
    """Stream the objects that `git rev-list --objects` lists for the revisions (and paths, after `--`)."""
    async with AsyncExitStack() as stack:
        ends = [*os.pipe(), *os.pipe()]
        try:
            listed, listing, objects, writing = ends
            extra = Extra({"GIT_LITERAL_PATHSPECS": "1"}, prefix=prefix)
            words = ("rev-list", "--objects", *revisions)
            lister = await stack.enter_async_context(
                git.open(*words, stdin=DEVNULL, stdout=listing, extra=extra)
            )
            words = ("cat-file", f"--batch={FORMAT}", "--buffer")
            reader = await stack.enter_async_context(
                git.open(*words, stdin=listed, stdout=writing, extra=extra)
            )
            for end in (listed, listing, writing):
                os.close(end)
                ends.remove(end)
            yield ObjectStream(objects, (lister, reader))
        finally:
            for end in ends:
                os.close(end)
