"""A candidate from another host: out of a git bundle, through the same door as an agent's push.

The invariant: what is in the bundle is as hostile as what an agent pushes, and is taken in as that is: by one
`git receive-pack` of ours with checks on every object, its ceilings, and one ref that it can set. Nothing of
it is unpacked anywhere else, and it stands on a commit that our own mirror has under a branch that it
names. Caller: `orchestrator.coordinator`.
"""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from dataclasses import replace

import trio

from orchestrator.core.text import cleaned
from orchestrator.errors import BranchMissing, ImportRefused, RepositoryError
from orchestrator.repo.compare import checked_commit
from orchestrator.repo.landing import is_below
from orchestrator.repo.quarantine import Quarantine
from orchestrator.repo.repositories import Repositories
from orchestrator.repo.worktree import Base

#: For taking one candidate in.
IMPORT_S = 120.0
_MAX_HEAD = 4096
_MAX_REPORT = 64 * 1024
_HEAD = re.compile(rb"# v2 git bundle\n-([0-9a-f]{40})[^\n]*\n([0-9a-f]{40}) refs/heads/[^\n]+\n\n")
_CLAIM = re.compile(r"(?:unpack|ng \S+) (?!ok\n)([^\n]{1,300})")


async def base_on(
    repositories: Repositories, url: str, branch: str, commit: str, *, landing: str | None = None
) -> Base:
    """Return the base that a candidate names, with its objects here.

    It must be on the remote's branch, or on the one that the candidate would land on, which may have been
    there before. Raises what `Repositories.resolve` does, and `RepositoryError` for any other commit.
    """
    tip = await repositories.resolve(url, branch)
    if await _has(tip, commit):
        return replace(tip, commit=commit)
    if landing is not None and landing != branch:
        with suppress(BranchMissing):
            tip = await repositories.resolve(url, landing)
            if await _has(tip, commit):
                return replace(tip, commit=commit)
    raise RepositoryError(f"{commit[:12]} is no commit of the branch {branch} of {tip.url}")


async def _has(tip: Base, commit: str) -> bool:
    """Return whether a branch has the commit, which may be one that is nowhere."""
    there = checked_commit(commit) == tip.commit
    return there or (await tip.mirror.has(commit) and await is_below(tip.mirror, commit, tip.commit))


async def take_in(quarantine: Quarantine, bundle: bytes, commit: str) -> None:
    """Bring the candidate of a bundle into quarantine; raises `ImportRefused` where it is not that commit."""
    head = _HEAD.match(bundle[:_MAX_HEAD])
    if head is None or (head[1].decode(), head[2].decode()) != (quarantine.base, checked_commit(commit)):
        raise ImportRefused("the bundle is not one of that commit alone over that base")
    pack = memoryview(bundle)[head.end() :]
    near, far = socket.socketpair()
    with near, far:
        ref, receiving = quarantine.open_import(near.fileno())
        report = ""
        with trio.move_on_after(IMPORT_S):
            async with receiving as receiver:
                near.close()
                report = await _push(far, f"{quarantine.base} {commit} {ref}", pack)
                await receiver.wait()
                receiver.release_nowait()
    if await quarantine.imported(ref) != commit:
        said = _CLAIM.search(report)
        raise ImportRefused(f"the bundle was refused: {cleaned(said[1]) if said else 'no word of why'}")


async def _push(far: socket.socket, command: str, pack: memoryview) -> str:
    """Speak the client's part of a push on the socket; return what the far side reports."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(far))
    line = f"{command}\0 report-status".encode()
    report = bytearray()
    with suppress(trio.BrokenResourceError):  # where it does not want to hear more
        seen = b""
        while not seen.endswith(b"0000") and len(seen) < _MAX_REPORT:
            if not (piece := await stream.receive_some(_MAX_REPORT)):
                return ""
            seen += bytes(piece)
        await stream.send_all(b"%04x%s0000" % (len(line) + 4, line))
        with suppress(trio.BrokenResourceError):  # it says why
            await stream.send_all(pack)
            await stream.send_eof()
        while len(report) < _MAX_REPORT and (piece := await stream.receive_some(_MAX_REPORT)):
            report += piece
    return report.decode(errors="replace")
