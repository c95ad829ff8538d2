"""The images of a podman backend: fetched and unpacked once, then known by their id.

The invariant: what is fetched goes to the disk that the store is on and nowhere else, and an archive that has
not changed since is not read again. Which one that was is noted beside the store, where no agent can write.
Caller: `sandbox.podman`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sandbox.base import SandboxUnavailable
from sandbox.container import PRIVATE, Place
from sandbox.process import Completed

#: How long an image may take from a registry or an archive.
PULL_S = 900.0
_COMMAND_S = 60.0
_TAIL_CHARS = 400
_TRANSPORTS = ("docker-archive:", "oci-archive:", "oci:", "dir:")
_ARCHIVE = re.compile(f"({'|'.join(_TRANSPORTS)})/")
_IMAGE = re.compile(r"[A-Za-z0-9][\w./:@+-]*", re.ASCII)
#: Podman unpacks into a temporary directory first. $0 that directory, $@ podman.
_ROOMY = """rm -rf -- "$0" && mkdir -- "$0" && TMPDIR=$0 "$@"; ended=$?; rm -rf -- "$0"; exit $ended"""


def check_image(image: str) -> None:
    """Raise `SandboxUnavailable` for what is not the name of an image or archive."""
    if not _ARCHIVE.match(image) and (not _IMAGE.fullmatch(image) or image.startswith(_TRANSPORTS)):
        raise SandboxUnavailable(f"SANDBOX_IMAGE={image!r} is not the name of an image or archive")


@dataclass(frozen=True, slots=True)
class Images:
    """The store below a `Place`; `run` runs a command in the namespace that owns the store's files."""

    place: Place
    podman: str
    run: Callable[[Iterable[str], float], Awaitable[Completed]]

    async def fetch(self, image: str) -> str:
        """Bring an image into the store and return its id.

        Raises `SandboxUnavailable` with what podman said.
        """
        archive = _look(image)
        known = self._noted(archive) if _ARCHIVE.match(image) else image
        done = None
        if known is not None:
            done = await self.run(self._podman("image", "inspect", "--format={{.Id}}", known), _COMMAND_S)
        if done is None or not done.exit.ok:
            room = ("sh", "-c", _ROOMY, str(self.place.store / "unpacking"))
            done = await self.run((*room, *self._podman("pull", "--quiet", image)), PULL_S)
        if not done.exit.ok:
            said = " ".join(done.stderr.decode(errors="replace").split())[-_TAIL_CHARS:]
            raise SandboxUnavailable(f"podman cannot get the image {image}: {said or done.exit}")
        found = done.stdout.decode().split()[-1].removeprefix("sha256:")
        if archive is not None:
            self.place.replace(self.place.fetched, json.dumps({"archive": archive, "id": found}))
        return found

    async def discard(self) -> None:
        """Empty the store; its files belong to subordinate ids, so that nobody else but root could."""
        await self.run(("sh", "-c", 'rm -rf -- "$0"/* "$0"/.[!.]*', str(self.place.store)), _COMMAND_S)

    def _podman(self, *arguments: str) -> tuple[str, ...]:
        store = (f"--root={self.place.store}", f"--runroot={PRIVATE}/runroot")
        return (self.podman, "--log-level=error", *store, *arguments)

    def _noted(self, archive: str | None) -> str | None:
        """Return the id of what was fetched from an archive that looked the same."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            noted = json.loads(self.place.fetched.read_text())
            return str(noted["id"]) if archive and noted["archive"] == archive else None
        return None


def _look(image: str) -> str | None:
    """Return what changes when an archive does; nothing for what is not one file."""
    path = Path(image.partition(":")[2])
    with contextlib.suppress(OSError):
        status = path.stat()
        if _ARCHIVE.match(image) and path.is_file():
            return f"{image} {status.st_dev}:{status.st_ino} {status.st_size} {status.st_mtime_ns}"
    return None
