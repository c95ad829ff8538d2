"""All mirrors of a state directory: never two of one remote, none that never got anything, few set aside.

The invariant: what a mirror kept is removed only where another has it, or where it was found damaged and
replaced long ago (`renewal`). Caller: `repositories`.
"""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path
from weakref import WeakValueDictionary

from orchestrator.repo.access import Gateway
from orchestrator.repo.mirrors import GONE, Mirror
from orchestrator.repo.removal import remove_tree
from orchestrator.repo.renewal import ANEW, ASIDE, asides_of, has_lost
from orchestrator.repo.soundness import got_anything
from orchestrator.repo.squatter import squatter
from orchestrator.repo.url import Remote
from sandbox.base import User

#: Mirrors that nobody uses are remembered up to this number, so that their next use need not look for litter.
RECENT = 32
#: Damaged ones of a remote that are kept beside their successor over a start, the newest.
KEEP_ASIDE = 2
_KEY = re.compile(r"[0-9a-f]{64}")


class Mirrors:
    """The mirrors of a state directory; a remote's is made when it is needed."""

    def __init__(self, root: Path, gateway: Gateway, user: User) -> None:
        self._root = root
        self._gateway = gateway
        self._user = user
        #: Whoever works on one refers to it, so there are never two of a remote at work.
        self._known: WeakValueDictionary[str, Mirror] = WeakValueDictionary()
        self._recent: deque[Mirror] = deque(maxlen=RECENT)

    def of(self, remote: Remote) -> Mirror:
        """Return the mirror of a remote; nothing is written before it is used."""
        mirror = self._known.get(remote.key)
        if mirror is None:
            mirror = Mirror(self._root / remote.key, remote, self._gateway, self._user.gid)
            self._known[remote.key] = mirror
            self._recent.append(mirror)
        return mirror

    def has(self, remote: Remote) -> bool:
        """Return whether anything was ever fetched from a remote."""
        return got_anything(self._root / remote.key)

    def idle(self) -> list[Path]:
        """Return the mirrors that nobody uses now."""
        known = self._known
        named = [path for path in self._root.iterdir() if _KEY.fullmatch(path.name) and not squatter(path)]
        return sorted(path for path in named if path.name not in known or not known[path.name].in_use)

    def idle_asides(self) -> list[Path]:
        """Return those that were set aside as damaged and keep no work that their successors have not."""
        found = {path: self._root / _key_of(path) for path in self._root.glob(f"{ASIDE}*")}
        return sorted(
            path for path, mirror in found.items() if mirror.is_dir() and not has_lost(path, mirror)
        )

    async def sweep(self) -> None:
        """Remove what a crash left that never got anything, or was half removed; before any is used.

        One that was set aside and whose successor had not yet come into its place is put back.
        """
        for aside in sorted(self._root.glob(f"{ASIDE}*")):
            place = self._root / _key_of(aside)
            if squatter(place):  # the first who needs it moves that aside, and tells
                continue
            if not place.exists():
                aside.rename(place)
            elif aside in asides_of(place)[KEEP_ASIDE:]:
                await remove_tree(aside)
        for path in list(self._root.iterdir()):
            half = path.name.startswith((GONE, ANEW))
            if half or (_KEY.fullmatch(path.name) and not squatter(path) and not got_anything(path)):
                await remove_tree(path)


def _key_of(aside: Path) -> str:
    return aside.name.removeprefix(ASIDE).rpartition("-")[0]
