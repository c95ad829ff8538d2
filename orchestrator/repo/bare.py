"""Repositories written by hand, as plain files: no process, and nothing in them that we did not write.

The invariant: everything here writes into directories that no agent has seen yet. Callers: `mirrors`,
`quarantine` and `worktree`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from sandbox.base import User

#: What a `.git` needs beside its files, each after what it lies in.
_PRIVATE_DIRECTORIES = ("", "refs", "refs/heads", "objects", "objects/info", "objects/pack", "info")
_PACKED = "packed-refs"
#: The names that a set-up made, as `git ls-files --directory -z` has them, but a line each.
MADE = "info/made"
#: The line before those of `info/exclude` that leave them out; an empty one comes after.
MADE_MARK = "# made by the set-up"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_COPY_BYTES = 2**30
#: What every HEAD of a bare one says: nothing is checked out.
HEAD = "ref: refs/heads/none\n"
#: What begins the refs of a mirror that keep what agents have not landed.
SALVAGE = "refs/salvage"
#: The branch that an agent works on.
AGENT_BRANCH = "refs/heads/agent"


def salvage_ref(agent_id: str) -> str:
    """Return the ref of the mirror that keeps what an agent has not landed."""
    return f"{SALVAGE}/{agent_id}"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the commits of record are by."""

    name: str
    email: str

    def environment(self) -> dict[str, str]:
        """Return the variables that make git commit as this identity."""
        return {
            "GIT_AUTHOR_NAME": self.name,
            "GIT_AUTHOR_EMAIL": self.email,
            "GIT_COMMITTER_NAME": self.name,
            "GIT_COMMITTER_EMAIL": self.email,
        }


def quoted(text: str) -> str:
    """Return a value as a configuration file takes it to the letter."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def make_directory(path: Path, mode: int, owner: User | None = None, group: int | None = None) -> None:
    """Make a directory with exactly this mode, whatever the umask, or give it to one that is there."""
    try:
        os.mkdir(path, mode)  # noqa: PTH102 - an agent waits for a dozen of these
    except FileNotFoundError:
        path.mkdir(parents=True)
    except FileExistsError:
        if not path.is_dir():
            raise
    os.chmod(path, mode)  # noqa: PTH101 - the same
    if os.geteuid() == 0:
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)
        elif group is not None:
            os.chown(path, 0, group)


def write_bare(directory: Path, config: str, *, alternates: tuple[str, ...] = ()) -> None:
    """Write a bare repository, or complete one that a crash left half written; keeps objects and refs."""
    for name in ("objects/info", "objects/pack", "refs/heads"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    for name in ("", "objects", "objects/info", "objects/pack", "refs", "refs/heads"):
        if name:
            # Agents read the objects; the directory above says who may come this far.
            (directory / name).chmod(0o755)
    if alternates:
        _write(directory / "objects/info/alternates", "".join(f"{path}\n" for path in alternates))
    _write(directory / "config", config)
    _write(directory / "HEAD", HEAD)


def write_ref(directory: Path, ref: str, commit: str) -> None:
    """Write a loose ref of a repository that nobody uses yet."""
    path = directory / ref
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, f"{commit}\n")


@dataclass(frozen=True, slots=True)
class PrivateGit:
    """What goes into a private `.git`: the commit that it is at, and where objects and index come from."""

    commit: str
    index: Path
    alternates: tuple[str, ...]
    identity: Identity
    #: The branch of the remote that the commit was on; shown as `origin/<branch>`.
    branch: str = ""
    #: Names that the repository's set-up makes, which git is to leave out (`setups.SetupLayer.roots`).
    made: tuple[str, ...] = ()


def write_private_git(git: Path, content: PrivateGit, owner: User, *, link_index: bool = False) -> None:
    """Write a `.git` directory for `owner`, complete and with a valid index, into a place that is still ours.

    The shared index stays valid for other inodes because only times (in seconds) and sizes are compared.
    It is copied, or linked to where nobody will ever write.
    """
    identity = content.identity
    config = (
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
        "\tlogallrefupdates = true\n\tcheckStat = minimal\n\ttrustctime = false\n"
        "[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n"
        f"[user]\n\tname = {quoted(identity.name)}\n\temail = {quoted(identity.email)}\n"
    )
    files = {
        "config": config,
        "HEAD": f"ref: {AGENT_BRANCH}\n",
        AGENT_BRANCH: f"{content.commit}\n",
        "objects/info/alternates": "".join(f"{path}\n" for path in content.alternates),
    }
    if content.branch:
        files[_PACKED] = _packed(content)
    if content.made:
        patterns = "".join(f"/{_as_pattern(name)}\n" for name in content.made)
        files["info/exclude"] = f"{MADE_MARK}\n{patterns}\n"
        files[MADE] = "".join(f"{name}\n" for name in content.made)
    owned = _Owned(os.fspath(git), owner)
    for name in _PRIVATE_DIRECTORIES:
        owned.make(name)
    for name, text in files.items():
        owned.write(name, text.encode())
    if link_index:
        os.link(content.index, git / "index")
    else:
        owned.copy("index", content.index)


def write_remote_branch(git: Path, content: PrivateGit, owner: User) -> None:
    """Write the part of a `.git` that not all who start from a commit share, to lie over the rest."""
    owned = _Owned(os.fspath(git), owner)
    owned.make("")
    owned.write(_PACKED, _packed(content).encode())


def _as_pattern(name: str) -> str:
    """Return the pattern of .gitignore that means this one name."""
    return re.sub(r"([\\*?\[ ])", r"\\\1", name)


def _packed(content: PrivateGit) -> str:
    return f"{content.commit} refs/remotes/origin/{content.branch}\n"


class _Owned:
    """Writes a small tree that its user alone may write then; in few calls, because an agent waits for it."""

    def __init__(self, root: str, owner: User) -> None:
        self._root = root
        self._owner = owner if os.geteuid() == 0 else None

    def make(self, name: str) -> None:
        """Make a directory."""
        path = f"{self._root}/{name}"
        os.mkdir(path, 0o755)  # noqa: PTH102 - quicker by half than by a Path
        if self._owner is not None:
            os.chown(path, self._owner.uid, self._owner.gid)

    def write(self, name: str, content: bytes) -> None:
        """Make a file with this content."""
        fd = self._open(name)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)

    def copy(self, name: str, source: Path) -> None:
        """Make a file with the content of another."""
        with open(source, "rb", buffering=0) as there, os.fdopen(self._open(name), "wb", buffering=0) as here:  # noqa: PTH123 - as above
            while os.sendfile(here.fileno(), there.fileno(), None, _COPY_BYTES):
                pass

    def _open(self, name: str) -> int:
        fd = os.open(f"{self._root}/{name}", _NEW_FILE, 0o644)
        try:
            os.fchmod(fd, 0o644)  # whatever our umask
            if self._owner is not None:
                os.fchown(fd, self._owner.uid, self._owner.gid)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)
