"""The door to this room: remotes in, worktrees and diffs out.

The invariant: one `Repositories` a state directory, made by `assembly` after the journal's lock is held, so
that everything under `mirrors`, `checkouts`, `workspaces` and `quarantine` is this process's alone. Callers:
`assembly`, `supervise`.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.core.address import as_address
from orchestrator.core.model import PushIntent
from orchestrator.core.survey import Survey
from orchestrator.errors import GitFailed, RepositoryError, RoomUnusable
from orchestrator.repo.access import Gateway, no_tokens, write_askpass
from orchestrator.repo.address import check_addresses
from orchestrator.repo.bare import Identity, make_directory, salvage_ref
from orchestrator.repo.base import Base
from orchestrator.repo.checkouts import Checkouts
from orchestrator.repo.compare import checked_commit, read_diff
from orchestrator.repo.landing import has_arrived
from orchestrator.repo.origin import Origin
from orchestrator.repo.policy import Policy
from orchestrator.repo.preparations import Preparations
from orchestrator.repo.quarantine import MIRROR_AT
from orchestrator.repo.removal import remove_tree
from orchestrator.repo.renewal import Renewals, damage_of, examine, examine_base
from orchestrator.repo.setups import SetupLayer
from orchestrator.repo.shelf import Mirrors
from orchestrator.repo.strays import end_strays
from orchestrator.repo.survey import Surveys
from orchestrator.repo.tenancy import kept_setup, read_tenancy, remove_room, room_name
from orchestrator.repo.url import UrlRules, parse_url
from orchestrator.repo.waste import Waste, litter, measure
from orchestrator.repo.worktree import Worktree, open_worktree
from sandbox.base import Backend, User

_SALVAGE_REF = re.compile(r"refs/salvage/[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_REF = re.compile(r"refs/[A-Za-z0-9._/+@#=-]+")
#: Characters that an overlay's options cannot hold.
_UNMOUNTABLE = set(',:\\"\n')


class Repositories:
    """Git for one state directory."""

    def __init__(
        self,
        home: Path,
        *,
        user: User,
        layered: bool,
        rules: UrlRules,
        identity: Identity,
        workspaces: Path | None = None,
        token_for: Callable[[str], str | None] = no_tokens,
        policy: Policy | None = None,
    ) -> None:
        """Make the directories; worktrees go under `workspaces`, `token_for` returns the token for a host."""
        self.mirrors_at = self._mirrors_at = home / "mirrors"
        self._agents = workspaces or home / "workspaces"
        self._quarantine = home / "quarantine"
        checkouts = home / "checkouts"
        for path in (self._mirrors_at, checkouts, self._agents, self._quarantine):
            # Others may pass through to what is theirs, and list nothing. What is there already may be the
            # operator's own.
            if home in path.parents or not path.exists():
                make_directory(path, 0o711)
        askpass = home / "askpass"
        write_askpass(askpass)
        self._gateway = Gateway(rules, askpass, token_for)
        self._checkouts = Checkouts(checkouts, user)
        self._user = user
        self._layered = layered and not set(f"{home}{self._agents}") & _UNMOUNTABLE
        self._identity = identity
        self.preparations = Preparations(home, self._checkouts, identity, user, layered=self._layered)
        self._policy = policy or Policy()
        self._mirrors = Mirrors(self._mirrors_at, self._gateway, user)
        self._renewals = Renewals()
        self._surveys = Surveys()

    def check_url(self, url: str) -> None:
        """Raise `UrlRefused` for a URL that no task may name; asks no network."""
        remote = parse_url(url, self._gateway.rules)
        literal = as_address(remote.host)
        if literal is not None:
            check_addresses(remote.host, [literal], self._gateway.rules)

    async def resolve(self, url: str, branch: str) -> Base:
        """Return the commit that the remote has under the branch now, with its objects in the mirror.

        Raises `UrlRefused`, `BranchMissing`, `RepositoryUnreachable`, or `RepositoryError`.
        """
        remote = parse_url(url, self._gateway.rules)
        mirror = self._mirrors.of(remote)
        commit = await mirror.refresh(branch)
        return Base(remote.url, branch, commit, mirror)

    async def survey(self, base: Base) -> Survey:
        """Return what the names in the base commit tell; asked for once a commit, mostly."""
        return await self._surveys.of(base)

    def damage(self, url: str) -> str | None:
        """Return why our copy of a repository is to be made anew, where that is known or seen at once."""
        return damage_of(self._mirrors.of(parse_url(url, self._gateway.rules)))

    async def examine(self, url: str, commit: str, *, thorough: bool) -> str | None:
        """Return what is wrong with our copy of a repository, None for nothing; then `renew` it."""
        return await examine(self._mirrors.of(parse_url(url, self._gateway.rules)), commit, thorough=thorough)

    async def examine_base(self, url: str, commit: str) -> str | None:
        """Return what is wrong with our copy where a commit that it had is gone; quicker than `examine`."""
        return await examine_base(
            self._mirrors.of(parse_url(url, self._gateway.rules)), checked_commit(commit)
        )

    async def renew(self, url: str, branch: str, wanted: Collection[str] = ()) -> bool:
        """Make our copy of a repository anew where it is damaged; see `Renewals.renew`."""
        mirror = self._mirrors.of(parse_url(url, self._gateway.rules))
        return await self._renewals.renew(mirror, branch, [checked_commit(commit) for commit in wanted])

    async def sweep(self) -> None:
        """Remove what a crash left half made or half removed, and end what a killed git left running."""
        for root in (self._mirrors_at, self._quarantine):
            await end_strays(root)
        await self._mirrors.sweep()
        await self.tidy()

    async def tidy(self) -> None:
        """Remove what was left half made or half removed and nobody is at; what is in use stays."""
        await self._checkouts.sweep()
        await self.preparations.tidy()

    async def find_kept(self, *, agent_id: str, task_id: str, backend: Backend, shared: bool = True) -> Base:
        """Return what the worktree stands on that an earlier life of the agent left behind.

        Raises `RoomUnusable` where there is none that can be worked on again, another `RepositoryError` where
        what it stands on cannot be had now.
        """
        tenancy = read_tenancy(self._quarantine / room_name(agent_id, task_id))
        try:
            remote = parse_url(tenancy.url, self._gateway.rules)
            commit = checked_commit(tenancy.base)
            floor = tenancy.floor and checked_commit(tenancy.floor)
        except RepositoryError as error:
            if error.retryable:  # a directory that is not there now
                raise
            raise RoomUnusable(f"what it stands on cannot be had any more: {error.detail}") from None
        mirror = self._mirrors.of(remote)
        kind = "layers" if self._layered and shared else "directory"
        objects = backend.seen(mirror.objects, MIRROR_AT)
        tenancy.check(agent=agent_id, kind=kind, user=self._user.uid, objects=objects)
        for needed in (commit, *filter(None, [floor])):
            if not await mirror.has(needed):
                await self._renewals.get_back(mirror, tenancy.branch, needed)
        return Base(remote.url, tenancy.branch, commit, mirror, floor)

    @asynccontextmanager
    async def open_worktree(
        self,
        base: Base,
        *,
        agent_id: str,
        task_id: str,
        backend: Backend,
        kept: bool = False,
        shared: bool = True,
        layer: SetupLayer | None = None,
    ) -> AsyncGenerator[Worktree, None]:
        """Give an agent its worktree, a new one or, on the base of `find_kept`, the one that it `kept`.

        Its files are an overlay over a `shared` checkout where this host can, and that can be mounted by one
        sandbox at a time; else they are a copy, which several may look at. The `layer` of the repository's
        set-up, which the caller holds, is there as well.

        Leaving the block removes everything of it, also when cancelled, unless `Worktree.kept` is set. No
        process of the agent may be alive by then.
        """
        name = room_name(agent_id, task_id)
        async with self._checkouts.hold(base.mirror, base.files) as checkout:
            layered = self._layered and shared
            made = layer.roots if layer else kept_setup(self._quarantine / name)[1] if kept else ()
            about = (base.files, base.mirror.objects, checkout, self._identity, self._user, layered)
            origin = Origin(*about, layer.tree if layer else None, made)
            async with open_worktree(
                base,
                room=self._agents / name,
                quarantine=self._quarantine / name,
                origin=origin,
                backend=backend,
                label=agent_id,
                policy=self._policy,
                kept=kept,
            ) as worktree:
                yield worktree

    def directories(self) -> list[str]:
        """Return the names of the agents whose belongings are found on the host.

        The quarantines tell, which come before a worktree and go after it: the directory of the worktrees
        is the operator's to name, and may hold what is not ours.
        """
        return sorted(path.name for path in self._quarantine.iterdir())

    async def measure(self, agent_id: str, task_id: str) -> int:
        """Return the bytes on the disk of what an agent left."""
        name = room_name(agent_id, task_id)
        return await measure((self._agents / name, self._quarantine / name))

    def free_bytes(self) -> int:
        """Return how much room there is where agents' work is kept."""
        disk = os.statvfs(self._quarantine)
        return disk.f_bavail * disk.f_frsize

    async def reap(self, name: str) -> None:
        """Remove what a crash left under a name from `directories`."""
        if name not in self.directories():
            raise RepositoryError(f"{name[:80]!r} is not the name of an agent's directory")
        await remove_room(self._agents / name, self._quarantine / name)

    async def clear(self, agent_id: str, task_id: str) -> None:
        """Remove whatever there is of an agent's worktree and quarantine, a part of them too."""
        name = room_name(agent_id, task_id)
        await remove_room(self._agents / name, self._quarantine / name)

    def find_salvage(self, url: str, agent_id: str) -> str | None:
        """Return the ref that keeps what the agent has not landed, or None where there is none."""
        try:
            remote = parse_url(url, self._gateway.rules)
        except RepositoryError:  # the operator allows it no more
            return None
        ref = salvage_ref(agent_id)
        kept = self._mirrors.has(remote) and self._mirrors.of(remote).git.read_ref(ref)
        return ref if kept else None

    def find_waste(self, *, owned: Collection[str], commits: Collection[str]) -> list[Waste]:
        """Return what nobody needs: `owned` directories and checkouts of `commits` somebody does."""
        found = []
        for name in self.directories():
            if name not in owned:
                paths = (self._agents / name, self._quarantine / name)
                found.append(
                    Waste("worktree", f"quarantine/{name}", "no agent of the journal owns it", paths)
                )
        for path in self._checkouts.idle(commits):
            name = f"checkouts/{path.parent.name}/{path.name}"
            found.append(Waste("checkout", name, "no agent works on it", (path,)))
        found += self.preparations.find_unused(owned)
        for path in self._mirrors.idle_asides():
            why = "it was damaged, and what was whole of it is in its successor"
            found.append(Waste("aside", f"mirrors/{path.name}", why, (path,)))
        for mirror in self._mirrors.idle():
            for path in litter(mirror):
                name = f"mirrors/{path.relative_to(self._mirrors_at)}"
                found.append(Waste("mirror", name, "a killed git left it", (path,)))
        return found

    async def discard(self, waste: Waste) -> bool:
        """Remove what `find_waste` found; return whether it was still nobody's."""
        path = waste.paths[0]
        match waste.kind:
            case "worktree":  # no agent ever comes to own what it does not own already
                await remove_room(*waste.paths)
                return True
            case "checkout" | "setup" as kind:
                return await (self._checkouts if kind == "checkout" else self.preparations).drop(path)
            case "aside":
                await remove_tree(path)
                return True
            case _:
                idle = any(mirror in path.parents for mirror in self._mirrors.idle())
                if idle:
                    path.unlink(missing_ok=True)
                return idle

    async def diff(self, url: str, base_commit: str, commit: str, *, max_bytes: int) -> bytes:
        """Return the change of a landed commit, or of a salvage ref, cut with a mark at `max_bytes`."""
        remote = parse_url(url, self._gateway.rules)
        if not self._mirrors.has(remote):
            raise GitFailed(f"there is no mirror of {remote.url}")
        if not _SALVAGE_REF.fullmatch(commit):
            checked_commit(commit)
        mirror = self._mirrors.of(remote)
        with mirror.hold():
            return await read_diff(mirror.git, checked_commit(base_commit), commit, max_bytes=max_bytes)

    async def observe(self, url: str, ref: str) -> str | None:
        """Return the commit that the remote has under a full ref now, or None where it has none."""
        if not _REF.fullmatch(ref):
            raise GitFailed(f"{ref[:200]!r} is not a full ref")
        return await self._mirrors.of(parse_url(url, self._gateway.rules)).observe(ref)

    async def has_arrived(self, push: PushIntent) -> bool:
        """Return whether the remote has the commit of a push on its branch, also below later ones."""
        return await has_arrived(self._mirrors.of(parse_url(push.remote, self._gateway.rules)), push)
