"""What set-ups made: layers of files, each made once, read by every agent and gate that stands on it.

The invariant: a layer appears under its name only when it is complete, is never written again, and is not
removed while anybody holds it; whoever is cut off while making one hands that on to the next who waits.
Caller: `preparations`.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import trio

from orchestrator.core.setup import CACHES, PROGRAMS, SCRATCH, SetupCutOff, SetupFailed
from orchestrator.repo.bare import make_directory
from orchestrator.repo.removal import remove_tree
from orchestrator.repo.sifting import most_names, sift
from orchestrator.repo.single_flight import Flights
from orchestrator.repo.tenancy import kept_setup
from sandbox.base import MIB, Directory, Layers
from sandbox.process import run_child

#: Bytes of all layers together beyond which those that nobody uses go.
KEEP_BYTES = 20 * 1024 * MIB
#: How long one failure answers all who ask for the same.
REMEMBER_S = 60.0
MAX_REMEMBERED = 64
#: How long a busy disk may take to have all of a layer.
SYNC_S = 120.0
#: What is left on a disk that is full, in bytes and in names.
SHORT_BYTES, SHORT_FILES = 4 * MIB, 64
_HALF, _OLD, _NOTE, _ROOM = "making-", "old-", "layer.json", "room"

#: Makes a workspace at a place of its own and carries the set-up out on it; raises `SetupFailed`.
Make = Callable[[Path], Awaitable[Layers | Directory]]


@dataclass(frozen=True, slots=True)
class SetupLayer:
    """One layer: its files, and what those who stand on it have to know of them."""

    tree: Path
    #: The names that it adds; a directory's ends with a slash.
    roots: tuple[str, ...]
    bytes: int
    #: Directories of programs, and variables of caches, that it has.
    programs: tuple[str, ...]
    caches: tuple[str, ...]

    def fits(self, checkout: Path) -> bool:
        """Return whether a checkout has nothing where it has something; no link is followed."""
        return not any(_is_taken(checkout, root.rstrip("/").split("/")) for root in self.roots)


def _is_taken(checkout: Path, parts: list[str]) -> bool:
    at = checkout
    for number, part in enumerate(parts, 1):
        at /= part
        try:
            mode = at.lstat().st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(mode):
            return True  # also where a file is in the way to it
        if number == len(parts):
            return True
    return False


class Setups:
    """All layers of this state directory."""

    def __init__(self, root: Path, rooms: Path) -> None:
        """Take where layers are, and where rooms say what they stand on."""
        self._root = root
        self._rooms = rooms
        #: The operator's to set.
        self.keep_bytes = KEEP_BYTES
        self._holders: Counter[Path] = Counter()
        self._makers: Flights[Path, None] = Flights()
        #: Half made or half removed, by a call that is still at it.
        self._busy: set[Path] = set()
        #: Why one could not be made, and until when that is the answer.
        self._failed: dict[Path, tuple[float, SetupFailed]] = {}

    @asynccontextmanager
    async def hold(
        self, place: Path, checkout: Path, make: Make, *, disk_mb: float
    ) -> AsyncGenerator[SetupLayer, None]:
        """Give the layer at a place (see `place_of`), made now if it is not there; it stays with the block.

        Of what `make` leaves in its workspace, what the checkout does not have is the layer.
        """

        async def work() -> None:
            if not place.exists():  # noqa: ASYNC240 - a stat on the local disk
                await self._make(place, checkout, make, disk_mb)

        self._holders[place] += 1
        try:
            if not place.exists():  # noqa: ASYNC240 - as above
                await self._makers.get(place, work)
            os.utime(place)  # those used last are kept
            yield _read(place)
        finally:
            self._holders[place] -= 1
            if not self._holders[place]:
                del self._holders[place]

    def place_of(self, mirror: Path, key: str) -> Path:
        """Return where the layer of a repository (its mirror) with this key is."""
        return self._root / mirror.name / key

    def has(self, place: Path) -> bool:
        """Return whether the layer is there."""
        return place.exists()

    async def _make(self, place: Path, checkout: Path, make: Make, disk_mb: float) -> None:
        self._recall(place)
        make_directory(place.parent, 0o711)
        half = place.parent / f"{_HALF}{secrets.token_hex(8)}"
        make_directory(half, 0o711)
        self._busy.add(half)
        try:
            failure = await self._try(place, half, partial(_fill, half, checkout, make, disk_mb))
            if failure is not None:
                await remove_tree(half)
                raise failure
        finally:
            self._busy.discard(half)  # what a kill cuts off is removed by a pass: no kill waits for that

    async def _try(self, place: Path, half: Path, fill: Callable[[], Awaitable[None]]) -> Exception | None:
        """Make a layer and give it its name; return why it could not be made."""
        try:
            await fill()
            half.rename(place)  # noqa: ASYNC240 - local
        except Exception as error:
            failure = self._without_room(error) or error
            if isinstance(failure, SetupFailed) and not failure.retryable:
                self._remember(place, failure)
            return failure
        return None

    def _without_room(self, error: Exception) -> SetupCutOff | None:
        """Return a failure that may pass, where the host had no room: the repository is not to blame."""
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return SetupCutOff(f"the host has no room for what the set-up makes: {error.strerror}")
        disk = os.statvfs(self._root)
        short = disk.f_bavail * disk.f_frsize < SHORT_BYTES or (disk.f_files and disk.f_favail < SHORT_FILES)
        if isinstance(error, SetupFailed) and short:
            return SetupCutOff(f"the host was short of room on its disk: {error.detail}")
        return None

    def _recall(self, place: Path) -> None:
        """Raise the failure that is remembered for a place."""
        until, failure = self._failed.get(place, (0.0, None))
        if failure is not None and trio.current_time() < until:
            raise type(failure)(failure.detail)

    def _remember(self, place: Path, failure: SetupFailed) -> None:
        self._failed.pop(place, None)
        while len(self._failed) >= MAX_REMEMBERED:
            del self._failed[next(iter(self._failed))]
        self._failed[place] = (trio.current_time() + REMEMBER_S, failure)

    def idle(self, rooms: Collection[str]) -> list[Path]:
        """Return the layers that nobody holds and none of these rooms stands on; and what is half made."""
        needed = {kept_setup(self._rooms / name)[0] for name in rooms}
        return [
            path
            for path in sorted(self._all())
            if path not in self._holders and path not in self._busy and name_of(path) not in needed
        ]

    async def drop(self, place: Path) -> bool:
        """Remove one that is still idle; return whether it was."""
        if place in self._holders or place in self._busy or not place.exists():  # noqa: ASYNC240 - local
            return False
        await self._remove([place])
        return True

    async def prune(self) -> None:
        """Remove what a crash left, and beyond the ceiling what nobody has used for longest."""
        idle = self.idle([path.name for path in self._rooms.iterdir()])
        gone = [path for path in idle if path.name.startswith((_HALF, _OLD))]
        whole = [path for path in self._all() if not path.name.startswith((_HALF, _OLD))]
        sizes = {path: _size_of(path) for path in whole}
        used = {path: path.stat().st_mtime for path in whole}
        total = sum(sizes.values())
        for path in sorted(set(idle).intersection(whole), key=lambda path: used[path]):
            if total > self.keep_bytes or sizes[path] < 0:
                total -= sizes[path]
                gone.append(path)
        await self._remove(gone)

    async def _remove(self, places: list[Path]) -> None:
        """Rename them, so that nobody can come to hold one, and then remove them."""
        retired = []
        for place in places:
            old = place.with_name(f"{_OLD}{secrets.token_hex(8)}")
            place.rename(old)
            retired.append(old)
        self._busy.update(retired)
        try:
            for old in retired:
                await remove_tree(old)
        finally:
            self._busy.difference_update(retired)

    def _all(self) -> list[Path]:
        return [path for mirror in self._root.iterdir() if mirror.is_dir() for path in mirror.iterdir()]


def name_of(place: Path) -> str:
    """Return the name of a layer's place, by which a worktree remembers it."""
    return f"{place.parent.name}/{place.name}"


async def _fill(half: Path, checkout: Path, make: Make, disk_mb: float) -> None:
    """Make the layer in a directory of its own."""
    workspace = await make(half / _ROOM)
    made = workspace.upper if isinstance(workspace, Layers) else workspace.path
    sifted = await sift(
        made,
        checkout,
        drop=(".git", SCRATCH),
        max_bytes=int(disk_mb * MIB),
        max_names=most_names(disk_mb),
    )
    tree = half / "tree"
    made.rename(tree)
    await remove_tree(half / _ROOM)
    programs = tuple(path for path in PROGRAMS if _has(tree, path))
    caches = tuple(name for name, path in CACHES.items() if _has(tree, path))
    layer = SetupLayer(tree, sifted.roots, sifted.bytes, programs, caches)
    note = half / _NOTE
    note.write_text(json.dumps({**asdict(layer), "tree": ""}))
    note.chmod(0o600)
    await _settle(half)


async def _settle(half: Path) -> None:
    """Bring a layer to the disk before it has its name: a torn one would be believed for ever."""
    argv = ["sync", "-f", "--", str(half)]
    done = await run_child(argv, env={"PATH": "/usr/bin:/bin"}, deadline_s=SYNC_S)
    if not done.exit.ok:
        raise OSError(f"a set-up's files could not be brought to the disk ({done.exit})")


def _read(place: Path) -> SetupLayer:
    """Return the layer at a place; raises `SetupCutOff` for one that somebody has damaged since."""
    try:
        told = json.loads((place / _NOTE).read_text())
        roots, programs, caches = (tuple(told[key]) for key in ("roots", "programs", "caches"))
        return SetupLayer(place / "tree", roots, int(told["bytes"]), programs, caches)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise SetupCutOff(f"what the set-up made is damaged, and will be made anew: {error}") from error


def _size_of(place: Path) -> int:
    """Return the bytes of a layer, or -1 of one that is damaged."""
    try:
        return _read(place).bytes
    except SetupCutOff:
        return -1


def _has(tree: Path, path: str) -> bool:
    """Return whether a tree has that directory, no step of the way being a link."""
    at = tree
    for part in path.split("/"):
        at /= part
        try:
            mode = at.lstat().st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(mode):
            return False
    return True
