"""From a base commit to the layer that its set-up makes: what it asks for, and what that is known by.

The invariant: only the base is asked, by our own git on the mirror; and a layer serves it only if nothing
in that lies where the base has something of its own. Made by `repositories`; called by `supervise.preparing`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orchestrator.core.setup import OWN_WORD, Recipe, SetupFailed, choose, find_recipe, key_of, read_recipe
from orchestrator.repo.bare import Identity, PrivateGit, make_directory
from orchestrator.repo.checkouts import Checkouts, SharedCheckout
from orchestrator.repo.compare import checked_commit
from orchestrator.repo.objects import ObjectReader, ObjectTooLarge, open_reader
from orchestrator.repo.quarantine import MIRROR_AT
from orchestrator.repo.setups import SetupLayer, Setups, name_of
from orchestrator.repo.waste import Waste
from orchestrator.repo.workspace import make_workspace
from orchestrator.repo.worktree import Base
from sandbox.base import MIB, Backend, Bind, Directory, Layers, User

#: Base commits whose recipe is remembered.
MAX_KNOWN = 256
_MAX_LISTING_BYTES = 64 * MIB

#: Carries the set-up's command out on a workspace, which needs these binds; raises `SetupFailed`.
CarryOut = Callable[[Layers | Directory, tuple[Bind, ...]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a base asks for: its recipe, the ids of the recipe's inputs by path, and of its whole tree."""

    recipe: Recipe
    contents: dict[str, str]
    tree: str


class Preparations:
    """The set-ups of one state directory."""

    def __init__(
        self, home: Path, checkouts: Checkouts, identity: Identity, user: User, *, layered: bool
    ) -> None:
        make_directory(home / "setups", 0o711)
        self.setups = Setups(home / "setups", home / "quarantine")
        self._checkouts = checkouts
        self._identity = identity
        self._user = user
        self._layered = layered
        self._describe_tools: Callable[[], Iterable[str]] = tuple
        self._known: dict[tuple[str, bool], Asked | None] = {}

    def configure(self, keep_bytes: int, describe_tools: Callable[[], Iterable[str]]) -> None:
        """Take how much is kept of what nobody uses, and what tells the tools that a result depends on."""
        self.setups.keep_bytes, self._describe_tools = keep_bytes, describe_tools

    async def tidy(self) -> None:
        """Remove what a crash left half made, and what was not used for long or is beyond the ceiling."""
        await self.setups.prune()

    def find_unused(self, rooms: Collection[str]) -> list[Waste]:
        """Return the layers that none of these rooms stands on and nobody holds."""
        idle = self.setups.idle(rooms)
        return [Waste("setup", f"setups/{name_of(path)}", "no agent stands on it", (path,)) for path in idle]

    async def drop(self, place: Path) -> bool:
        """Remove a layer that is still unused; return whether it was."""
        return await self.setups.drop(place)

    async def find(self, base: Base, *, detect: bool) -> Asked | None:
        """Return what the base says of its set-up, or what its lock files say where they may be asked.

        None for nothing. Raises `SetupUnclear`, or `SetupFailed` where an input is not there.
        """
        known = (base.commit, detect)
        if known not in self._known:
            while len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[known] = await _find(base, detect=detect)
        return self._known[known]

    @asynccontextmanager
    async def open(
        self,
        base: Base,
        asked: Asked,
        *,
        backend: Backend,
        carry_out: CarryOut,
        disk_mb: float,
        making: Callable[[], Awaitable[None]],
    ) -> AsyncGenerator[SetupLayer, None]:
        """Give the layer of a base, made now where there is none; it stays as long as the block.

        Calls `making` first where there is something to make,
        or to wait for. Raises `SetupFailed`.
        """
        around = [*self._describe_tools(), str(self._user.uid), "layers" if self._layered else "directory"]
        async with self._checkouts.hold(base.mirror, base.commit) as checkout:
            make = partial(self._make, base, checkout, backend, carry_out)
            for told in (around, [*around, asked.tree]):
                key = key_of(asked.recipe, asked.contents, told)
                place = self.setups.place_of(base.mirror.directory, key)
                if not self.setups.has(place):
                    await making()
                async with self.setups.hold(place, checkout.tree, make, disk_mb=disk_mb) as layer:
                    # What was made on an older tree may lie where this one has files: then it gets its own.
                    if layer.fits(checkout.tree):
                        yield layer
                        return
        raise SetupFailed("what the set-up made lies where the repository has files of its own")

    async def _make(
        self, base: Base, checkout: SharedCheckout, backend: Backend, carry_out: CarryOut, room: Path
    ) -> Layers | Directory:
        objects = Bind(base.mirror.objects, MIRROR_AT)
        seen = (backend.seen(objects.source, objects.target),)
        git = PrivateGit(base.commit, checkout.index, seen, self._identity, base.branch)
        workspace = await make_workspace(room, checkout, git, user=self._user, layered=self._layered)
        await carry_out(workspace, (objects,))
        return workspace


async def _find(base: Base, *, detect: bool) -> Asked | None:
    with base.mirror.hold():
        try:
            async with open_reader(base.mirror.git) as reader:
                recipe = await _recipe(reader, checked_commit(base.commit), detect=detect)
        except ObjectTooLarge as error:
            raise SetupFailed(f"what says how the repository is set up is too large: {error}") from error
        return None if recipe is None else await _with_contents(base, recipe)


async def _recipe(reader: ObjectReader, commit: str, *, detect: bool) -> Recipe | None:
    names = await reader.read_tree(f"{commit}^{{tree}}", max_bytes=16 * MIB)
    if OWN_WORD.encode() in names:
        own = await reader.read(f"{commit}:{OWN_WORD}", max_bytes=MIB)
        if own is not None and own[0] == "blob" and (recipe := read_recipe(own[1])):
            return recipe
    if not detect:
        return None
    project = None
    if b"pyproject.toml" in names:
        project = await reader.read(f"{commit}:pyproject.toml", max_bytes=MIB)
    plain = [name.decode(errors="replace") for name in names]
    return find_recipe(plain, project[1] if project and project[0] == "blob" else None)


async def _with_contents(base: Base, recipe: Recipe) -> Asked:
    """Return the recipe with the ids of all that it depends on."""
    git, commit = base.mirror.git, base.commit
    tree = (await git.run("rev-parse", f"{commit}^{{tree}}")).decode().strip()
    if recipe.inputs is None:
        return Asked(recipe, {"": tree}, tree)
    listing = await git.run("ls-tree", "-r", "-z", "--full-tree", commit, max_bytes=_MAX_LISTING_BYTES)
    lines = (line.partition(b"\t") for line in listing.split(b"\0") if line)
    ids = {path.decode(errors="surrogateescape"): told.decode() for told, _, path in lines}
    chosen = choose(recipe.inputs, ids)
    missing = [text for text, paths in chosen.items() if not paths]
    if missing and not recipe.detected:
        raise SetupFailed(f"[setup] inputs names {missing[0]!r}, which the base commit does not have")
    return Asked(recipe, {path: ids[path] for paths in chosen.values() for path in paths}, tree)
