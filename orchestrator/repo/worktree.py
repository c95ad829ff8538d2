"""An agent's own checkout of the repository, from before its first process until nothing of it is left.

The invariant: the host runs no git on it, follows no link in it and believes nothing about it; what the agent
did comes out only by a push from inside a sandbox into its quarantine. Callers: `repositories` (makes it) and
`supervise`.
"""

from __future__ import annotations

import copy
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from orchestrator.errors import ImportRefused, RepositoryError
from orchestrator.repo import outbox
from orchestrator.repo.bare import salvage_ref
from orchestrator.repo.base import Base
from orchestrator.repo.collecting import Collector
from orchestrator.repo.inside import LEFT_OUT, Claim, run_script
from orchestrator.repo.moving import Place, move_files
from orchestrator.repo.origin import Origin
from orchestrator.repo.policy import Policy
from orchestrator.repo.quarantine import MIRROR_AT, Quarantine
from orchestrator.repo.setups import SetupLayer, name_of
from orchestrator.repo.tenancy import Tenancy, keep_prompt, keep_setup, kept_prompt, move_in, remove_room
from orchestrator.repo.underlay import exchange
from orchestrator.repo.workspace import (
    HOME_NAME,
    OUTBOX_NAME,
    is_touched,
    make_workspace,
    open_beside,
    open_up,
    reopen_workspace,
)
from sandbox.base import Backend, Bind, Directory, Layers, Limits, SandboxError, Spec

__all__ = ["Base", "Worktree", "open_worktree"]

#: How long leaving a worktree may take to remove it; what is left then is the reaper's.
REMOVE_S = 30.0
#: Of the deadline of a collection, what the agent's own repository may use up before ours takes its place.
_FIRST_SHARE = 0.6
#: How long the receiving end may take to end once the sending end is gone.
_RECEIVED_S = 5.0
#: How long a move that a crash cut off may take to be done again.
_MOVE_S = 120.0
SALVAGED = "Work that was not landed"

log = logging.getLogger(__name__)


class Worktree:
    """The workspace of one agent; made by `open_worktree`."""

    def __init__(
        self,
        base: Base,
        room: Path,
        workspace: Layers | Directory,
        quarantine: Quarantine,
        tools: Collector,
        *,
        tenancy: Tenancy,
    ) -> None:
        self.base = base
        #: What is written of it for a later life.
        self.tenancy = tenancy
        self.workspace = workspace
        #: What every sandbox on the workspace has to show beside it.
        self.binds = (Bind(base.mirror.objects, MIRROR_AT),)
        self.quarantine = quarantine
        #: Whether leaving the block of `open_worktree` leaves everything where it is, for a later life.
        self.kept = False
        self._room = room
        self._tools = tools
        self._candidate: str | None = None
        #: What the last collection left out, in words, where it found nothing else.
        self.left_out: str | None = None

    def take_up(self) -> None:
        """Know again what an earlier life had collected."""
        self._candidate = self.quarantine.take_up()

    def open_home(self) -> Path:
        """Return a directory that stays with the worktree, for what the agent's program keeps of itself."""
        return open_beside(self._room, HOME_NAME, self._tools.origin.user)

    def open_outbox(self) -> Path:
        """Return the directory in which the agent leaves its result, as `outbox.FILE_NAME`."""
        return open_beside(self._room, OUTBOX_NAME, self._tools.origin.user)

    def clear_result(self) -> None:
        """Remove the result of an earlier turn."""
        outbox.clear(self.open_outbox())

    def read_result(self, *, max_bytes: int) -> bytes | None:
        """Return what the agent left as its result, a byte more than `max_bytes` at most; None for nothing.

        Raises `ResultMalformed` for what is no plain file.
        """
        return outbox.read(self._room / OUTBOX_NAME, max_bytes=max_bytes)

    def keep_prompt(self, text: str) -> None:
        """Remember the agent's first prompt as long as the worktree lives."""
        keep_prompt(self.quarantine.place, text)

    def kept_prompt(self) -> str | None:
        """Return the first prompt that was kept on this worktree."""
        return kept_prompt(self.quarantine.place)

    def touched(self) -> bool:
        """Return whether any file was ever changed; True where that cannot be told without looking at all."""
        return is_touched(self.workspace)

    def fits(self, layer: SetupLayer | None) -> bool:
        """Return whether the checkout below the files has nothing where a set-up has made something."""
        return layer is None or layer.fits(self._tools.origin.shared.tree)

    def over(self, commit: str, layer: SetupLayer | None) -> Worktree:
        """Return the same worktree as who judges its work over another base, on its set-up, sees it."""
        other = copy.copy(self)
        other.base = replace(self.base, commit=commit)
        other.quarantine = self.quarantine.over(commit, self._tools.origin.on(layer))
        return other

    async def move(
        self, onto: str, tree: str, layer: SetupLayer | None, *, limits: Limits, deadline_s: float
    ) -> None:
        """Bring the files to a tree of the quarantine, and the work onto another base, with HEAD there.

        They stand on that base's set-up from then on, where it fits. What git does not know stays. A crash in
        its midst is made good by the next opening. Raises `GitFailed`.
        """
        begun = self._candidate or self.base.commit
        base = replace(self.base, commit=onto, floor=self.base.files)
        self.tenancy = replace(self.tenancy, base=onto, floor=base.files, moving=(begun, tree))
        self.tenancy.write(self.quarantine.place)
        self.base, self.quarantine.base = base, onto
        await self.take_place(self._tools.origin.on(layer))
        await self.finish_move(limits=limits, deadline_s=deadline_s)

    async def take_place(self, origin: Origin) -> None:
        """Stand on what a set-up made, in the place of what another did, where it is another."""
        objects = self._tools.backend.seen(self.base.mirror.objects, MIRROR_AT)
        git = origin.private_git((objects,), self.base.branch)
        self.workspace = await exchange(self.workspace, self.quarantine.place, origin, git)
        self._tools = replace(self._tools, origin=origin)
        self.quarantine.stand_on(origin)

    async def finish_move(self, *, limits: Limits, deadline_s: float) -> None:
        """Do what a move has left to be done, if any."""
        if self.tenancy.moving:
            if self._tools.origin.made_at is not None:  # else there is none, or it is not at hand
                await self.take_place(self._tools.origin)
            open_up(self.workspace)
            spec = Spec(self._tools.label, (), self.workspace, binds=self.binds, limits=limits)
            place = Place(self._room, self.quarantine, self._tools.origin, self._tools.backend, spec)
            await move_files(place, self.tenancy, deadline_s=deadline_s)
            self.tenancy = replace(self.tenancy, moving=())
            self.tenancy.write(self.quarantine.place)

    async def collect(self, *, limits: Limits, deadline_s: float, message: str) -> str | None:
        """Commit what was left uncommitted and bring it into quarantine; None where nothing is new.

        Where the agent's own repository is of no use, the files alone are taken, as one commit over the base.
        Raises `ImportRefused` where the work cannot be taken in, and `SandboxError` where no sandbox starts.
        """
        self.quarantine.note_message(message)
        clock = self._tools.backend.clock
        ends = clock.now() + deadline_s
        claim, found = await self._collect_once(limits, deadline_s * _FIRST_SHARE, message, rescue=False)
        if found is None and claim.word not in {"unchanged", "refused", *LEFT_OUT}:
            left_s = max(0.0, ends - clock.now())
            claim, found = await self._collect_once(limits, left_s, message, rescue=True)
        self.left_out = LEFT_OUT.get(claim.word) if found is None else None
        if found is not None:
            self._candidate = found
            return found
        if claim.word in {"unchanged", "pushed", *LEFT_OUT}:
            return None
        if claim.word == "refused":
            raise ImportRefused(f"what the agent committed was refused: {claim.detail}")
        why = claim.detail if claim.word else f"not done within {deadline_s:g} s"
        raise ImportRefused(f"the agent's work could not be collected: {why}")

    async def _collect_once(
        self, limits: Limits, deadline_s: float, message: str, *, rescue: bool
    ) -> tuple[Claim, str | None]:
        open_up(self.workspace)
        near, far = socket.socketpair()
        with near, far:
            ref, receiving = self.quarantine.open_import(near.fileno())
            spec = Spec(self._tools.label, (), self.workspace, binds=self.binds, limits=limits)
            spec, mark = self._tools.order(self.base, spec, message, ref, far.fileno(), rescue=rescue)
            async with receiving as receiver:
                near.close()
                claim = await run_script(
                    self._tools.backend, spec, mark, deadline_s=deadline_s, started=far.close
                )
                far.close()
                with trio.move_on_after(_RECEIVED_S):
                    await receiver.wait()
                    receiver.release_nowait()
        return claim, await self.quarantine.imported(ref)

    async def salvage(self, *, limits: Limits, deadline_s: float, message: str = SALVAGED) -> str | None:
        """Keep the work as `refs/salvage/<agentId>` in the mirror; return the ref, or None for no work.

        Only the files are taken, by a repository of ours: after its end nothing that the agent wrote (a
        filter, a hook) runs again. What can no longer be collected is salvaged as it was when last collected.
        """
        ref, brought = salvage_ref(self._tools.label), self.quarantine.salvaged()
        await self._tools.drop_rescues()
        if brought:  # each try anew would take as much room again
            await self.base.mirror.adopt(self.quarantine.directory, brought, ref)
            return ref
        candidate = self._candidate
        try:
            claim, found = await self._collect_once(limits, deadline_s, message, rescue=True)
            candidate = found or (None if claim.word == "unchanged" else candidate)
            if candidate is None and claim.word != "unchanged":
                raise ImportRefused(f"the work could not be salvaged: {claim.detail or 'no word of it'}")
        except (RepositoryError, SandboxError):
            if candidate is None:
                raise
            log.debug("salvaged as last collected", extra={"agent_id": self._tools.label})
        if candidate is None:
            return None
        self.quarantine.note_salvaged(candidate)
        await self.base.mirror.adopt(self.quarantine.directory, candidate, ref)
        return ref


@asynccontextmanager
async def open_worktree(
    base: Base,
    *,
    room: Path,
    quarantine: Path,
    origin: Origin,
    backend: Backend,
    label: str,
    policy: Policy,
    kept: bool = False,
) -> AsyncGenerator[Worktree, None]:
    """Make a worktree at `room` and its quarantine, or take up the one that an earlier life `kept` there.

    Leaving the block removes both, also when cancelled, unless `Worktree.kept` says that they stay. One that
    cannot be taken up (`RoomUnusable`) stays where it is.
    """
    tools = Collector(backend, origin, label, room)
    objects = backend.seen(base.mirror.objects, MIRROR_AT)
    git = origin.private_git((objects,), base.branch)
    user, layered, shared, made = origin.user, origin.layered, origin.shared, origin.made_at
    inbox = Quarantine(quarantine, room, origin, label, policy)
    inbox.base = base.commit
    worktree, stands_on = None, name_of(made.parent) if made else None
    try:
        if kept:
            workspace = await reopen_workspace(room, shared, git, user=user, layered=layered, made=made)
        else:
            # The first to come and the last to go: by it a crash's leftovers are found.
            inbox.claim()
            make = partial(make_workspace, user=user, layered=layered, common=True, made=made)
            workspace = await make(room, shared, git)
            keep_setup(quarantine, stands_on, origin.made)
        tenancy = move_in(quarantine, label, base, workspace, user=user.uid, objects=objects, kept=kept)
        worktree = Worktree(base, room, workspace, inbox, tools, tenancy=tenancy)
        if kept:
            worktree.kept = True  # until the caller, who knows how it ends, says otherwise
            worktree.take_up()
        await worktree.finish_move(limits=Limits(), deadline_s=_MOVE_S)
        keep_setup(quarantine, stands_on, origin.made)  # of a move that was cut off, only now
        yield worktree
        if worktree.kept:
            worktree.tenancy.leave(quarantine)
    finally:
        if not (kept if worktree is None else worktree.kept):
            removed = False
            with trio.move_on_after(REMOVE_S, shield=True):
                await remove_room(room, quarantine)
                removed = True
            if not removed:
                raise OSError(f"{room.name} was not removed within {REMOVE_S:g} s: the reaper does it")
