"""What says below the top of a repository how it is checked: workspaces, crates and folders of their own.

The invariant: of what a candidate changes there, that which leads a tool is put back as the base has it, or
taken away where the base has the folder and not the file; a folder that is new brings its own. Only the
candidate's own changes are looked at, so that it costs nothing to have a thousand workspaces. Caller:
`gates.mechanical`.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.text import escaped
from orchestrator.errors import RepositoryError
from orchestrator.gates.definition import Base, Below, Definition
from orchestrator.gates.exhibit import Exhibit
from orchestrator.gates.restoring import also
from orchestrator.gates.settings import are_same

#: Bounds on what is put back or taken away.
MAX_PUT_BACK, MAX_BYTES = 1000, 16 * 1024 * 1024


class Displaced(Exception):
    """The candidate puts something in the place of the project's tools, or moves too much around them."""


async def led_below(base: Base, exhibit: Exhibit, definition: Definition) -> Definition:
    """Return the definition that leads tools below the top, too, as the base does; raises `Displaced`."""
    if definition.below is None:
        return definition
    look = _Look(base, exhibit, definition.below)
    files: dict[str, bytes] = {}
    gone: list[str] = []
    for path in exhibit.changed:
        if "/" not in path:
            continue
        await look.refuse_place(path)
        folder, _, name = path.rpartition("/")
        around = await look.in_base(folder)
        if not around or not await look.leads(path):
            continue
        content = await base.read(path) if name in around else None
        if await look.stays(path, content):
            continue
        if content is None:
            gone.append(path)
        else:
            files[path] = content
        if len(files) + len(gone) > MAX_PUT_BACK or sum(map(len, files.values())) > MAX_BYTES:
            raise Displaced(
                f"the candidate changes more than {MAX_PUT_BACK} files that say how it is checked"
            )
    return also(definition, files, gone)


class _Look:
    """Looks at the base and the candidate, at each folder once."""

    def __init__(self, base: Base, exhibit: Exhibit, below: Below) -> None:
        self._base = base
        self._exhibit = exhibit
        self._below = below
        self._names = {"": frozenset(base.names)}
        self._made_of: dict[str, frozenset[str]] = {}

    async def refuse_place(self, path: str) -> None:
        """Raise where a path lies in a folder of programs that the base has not, beside what it has."""
        parts = path.split("/")
        if parts[0] in self._below.places:
            return  # the definition itself refuses it
        for number, part in enumerate(parts[1:], 1):
            if part in self._below.places:
                around = await self.in_base("/".join(parts[:number]))
                if around and part not in around:
                    shown = escaped("/".join(parts[: number + 1]))[:300]
                    raise Displaced(
                        f"the candidate adds {shown}, which would take the place of the project's tools"
                    )
                return

    async def leads(self, path: str) -> bool:
        """Return whether a path leads a tool, by its name or by what names it in the folders above."""
        if self._below.leads(path):
            return True
        if self._below.follow is None:
            return False
        for folder in _above(path):
            if folder not in self._made_of:
                known = await self.in_base(folder)
                found = await self._below.follow(self._base, folder) if known else ()
                self._made_of[folder] = frozenset(found)
            if path in self._made_of[folder]:
                return True
        return False

    async def stays(self, path: str, content: bytes | None) -> bool:
        """Return whether the candidate's own file is left: it says the same, or its folder went with it."""
        folder, _, name = path.rpartition("/")
        if name in self._below.shared:
            try:
                if are_same(name, content, await self._exhibit.read_candidate(path)):
                    return True
            except RepositoryError:  # too large to be read, or a link
                pass
        if content is None:
            return False
        return name in self._below.additions or await self._is_gone(folder)

    async def in_base(self, folder: str) -> frozenset[str]:
        """Return the names in a folder of the base; where there is none, nobody is asked."""
        if folder not in self._names:
            above, _, name = folder.rpartition("/")
            there = name in await self.in_base(above)
            self._names[folder] = frozenset(await self._base.names_in(folder) if there else ())
        return self._names[folder]

    async def _is_gone(self, folder: str) -> bool:
        """Return whether the candidate has taken a folder away as a whole, and put no link in its place."""
        if await self._exhibit.names_candidate(folder):
            return False
        for place in (folder, *_above(folder)):
            try:
                if await self._exhibit.read_candidate(place) is not None:
                    return False
            except RepositoryError:
                return False
        return True


def _above(path: str) -> Iterator[str]:
    """Go through the folders above a path, but the top."""
    parts = path.split("/")
    return ("/".join(parts[:number]) for number in range(len(parts) - 1, 0, -1))
