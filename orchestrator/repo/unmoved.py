"""Whether a branch of a repository in a local directory is still where it was: read, in place of asked.

The invariant: yes only where git's own answer would be the same; whatever is not a plain repository with its
refs in files (a link, a worktree, another format, hidden refs, a file of somebody else, a mount) is "not
known", and git is asked. Nothing here waits, follows a link, or reads more than a bound. Caller: `mirrors`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

_CONFIG_BYTES = 64 * 1024
_PACKED_BYTES = 1024 * 1024
_REF_BYTES = 256
#: What every repository has; a FIFO or a device in place of a file is opened without waiting, and refused.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_HEAD = re.compile(rb"ref: refs/heads/[^\0- \x7f]+\n|[0-9a-f]{40}\n")
#: Sections that say nothing about which refs there are, what they hold, and who is shown them.
_SECTION = re.compile(rb'\[(core|user|gc|receive|remote "[^"\\]*"|branch "[^"\\]*")\]', re.IGNORECASE)
#: All else that may stand in a line: a comment, or a setting; one of them says that nothing is special.
_SETTING = re.compile(
    rb"([#;].*|repositoryformatversion *= *0|(?!repositoryformatversion\b)[a-z][a-z0-9-]*([ \t]*=.*)?)?",
    re.IGNORECASE,
)


class _Unusual(Exception):
    """Only git can tell."""


def stands_at(directory: Path, roots: Iterable[Path], branch: str, commit: str) -> bool:
    """Return whether the branch is at the commit now; False also means that only git can tell.

    `roots` are the directories that the operator allowed: what is mounted below one of them is not read.
    """
    try:
        with ExitStack() as held:
            place = _Place(directory, {root.stat().st_dev for root in roots}, held)
            git = place.git_directory()
            place.check_plain(git)
            return place.commit_of(git, f"refs/heads/{branch}") == commit.encode("ascii")
    except (OSError, ValueError, _Unusual):
        return False


class _Place:
    """The repository's files, each opened relative to its directory and judged by the descriptor."""

    def __init__(self, directory: Path, devices: set[int], held: ExitStack) -> None:
        self._held = held
        found = directory.stat()
        if found.st_dev not in devices:
            raise _Unusual
        self._owner, self._device = found.st_uid, found.st_dev
        self._top = self._directory(os.fspath(directory))

    def _open(self, name: str, kind: int, at: int | None = None) -> tuple[int, os.stat_result]:
        fd = os.open(name, _READ, dir_fd=at)
        self._held.callback(os.close, fd)
        found = os.fstat(fd)
        # As root we can read what the owner, as whom git would look, cannot.
        readable = stat.S_IRUSR if found.st_uid == self._owner else stat.S_IROTH
        if stat.S_IFMT(found.st_mode) != kind or found.st_dev != self._device:
            raise _Unusual
        if not found.st_mode & readable:
            raise _Unusual
        return fd, found

    def _directory(self, name: str, at: int | None = None) -> int:
        return self._open(name, stat.S_IFDIR, at)[0]

    def _read(self, name: str, at: int, max_bytes: int) -> bytes:
        fd, found = self._open(name, stat.S_IFREG, at)
        if found.st_size > max_bytes:
            raise _Unusual
        content = os.read(fd, max_bytes + 1)
        if len(content) > max_bytes:
            raise _Unusual
        return content

    def git_directory(self) -> int:
        """Return `.git` where there is one, which is where git looks first; else the directory itself."""
        try:
            git, found = self._open(".git", stat.S_IFDIR, self._top)
        except FileNotFoundError:
            return self._top
        if found.st_uid != self._owner:  # "dubious ownership"
            raise _Unusual
        return git

    def check_plain(self, git: int) -> None:
        """Raise where git would find no repository here, or another one, or hide some of its refs."""
        for name in ("commondir", "objects/info/alternates"):
            if _exists(name, git):
                raise _Unusual
        self._directory("objects", git)
        if not _HEAD.fullmatch(self._read("HEAD", git, _REF_BYTES)):
            raise _Unusual
        config = self._read("config", git, _CONFIG_BYTES)
        if b"\\" in config or b"\r" in config:  # a line may go on, and what looks like a section be a value
            raise _Unusual
        for line in config.split(b"\n"):
            text = line.strip(b" \t")
            if not _SECTION.fullmatch(text) and not _SETTING.fullmatch(text):
                raise _Unusual

    def commit_of(self, git: int, ref: str) -> bytes | None:
        """Return the commit of a ref: its own file counts, and only where there is none the packed ones."""
        *parents, name = ref.split("/")
        if {"", ".", ".."} & {*parents, name}:
            raise _Unusual
        at = self._directory(parents.pop(0), git)
        at = self._directory(parents.pop(0), at)  # both are there in every repository
        try:
            for parent in parents:
                at = self._directory(parent, at)
            content = self._read(name, at, _REF_BYTES)
        except FileNotFoundError:
            return _packed(self._read("packed-refs", git, _PACKED_BYTES), ref)
        return content[:40] if len(content) == 41 and content.endswith(b"\n") else None


def _exists(name: str, at: int) -> bool:
    try:
        os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _packed(content: bytes, ref: str) -> bytes | None:
    """Return the commit of a ref in the file of packed refs, which ends with a newline and names it once."""
    line = b" " + os.fsencode(ref) + b"\n"
    lines = b"\n" + content
    at = lines.find(line)
    if at < 41 or lines.find(line, at + 1) >= 0 or not content.endswith(b"\n") or lines[at - 41] != 0x0A:
        return None
    return lines[at - 40 : at]
