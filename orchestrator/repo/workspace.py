"""A private copy of a shared checkout, made in a time that does not depend on its size where overlays work.

The invariant: it is complete, and the agents' user's own, before any process of theirs sees it; from then on
the host reads nothing of it but the names in its upper layer. Callers: `worktree`, `quarantine`, `underlay`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from orchestrator.errors import GitFailed, RoomUnusable
from orchestrator.repo.bare import PrivateGit, make_directory, write_private_git, write_remote_branch
from orchestrator.repo.checkouts import SharedCheckout
from orchestrator.repo.git import REMOTE_S, as_user, complaint
from orchestrator.repo.removal import open_ways, remove_tree
from sandbox.base import Directory, Layers, User
from sandbox.process import run_child

#: The directory beside a workspace in which a runtime's program keeps what it needs to go on after a crash.
HOME_NAME = "home"
#: The directory beside a workspace by which an agent hands its result over (`outbox`).
OUTBOX_NAME = "result"
_STAYING = {HOME_NAME, OUTBOX_NAME}


def open_beside(place: Path, name: str, user: User) -> Path:
    """Return a directory of a room that stays as long as the room; the agents' user owns it.

    Raises `RoomUnusable` where an agent has put something else in its place.
    """
    path = place / name
    try:
        found = path.lstat()
    except FileNotFoundError:
        make_directory(path, 0o700, user)
        return path
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user.uid:
        raise RoomUnusable(f"{name} in it is no directory of the agents' user")
    return path


async def make_workspace(
    place: Path,
    shared: SharedCheckout,
    git: PrivateGit,
    *,
    user: User,
    layered: bool,
    common: bool = False,
    made: Path | None = None,
) -> Layers | Directory:
    """Make a workspace below `place`, which must not exist: the shared files, and a `.git` of its own.

    What the repository's set-up `made` is there as well, where the shared files have nothing.
    Where many start with the same `.git` (`common`), it is shared as the files are, and copied as it is
    written: each file and directory that is not made is one that a busy disk need not find room for.
    """
    make_directory(place, 0o700, user)
    if layered:
        cover = shared.git_cover(git, user) if common else None
        layers = Layers(shared.tree, place / "upper", place / "work", place / "merged", cover, made)
        for path in (layers.upper, layers.work, layers.merged):
            make_directory(path, 0o755, user)
        if cover is None:
            write_private_git(layers.upper / ".git", git, user)
        elif git.branch:
            write_remote_branch(layers.upper / ".git", git, user)
        return layers
    tree = place / "tree"
    make_directory(tree, 0o755, user)
    await copy_files(shared.tree, tree, user)
    if made is not None:
        await copy_files(made, tree, user)
    write_private_git(tree / ".git", git, user)
    return Directory(tree)


async def reopen_workspace(
    place: Path,
    shared: SharedCheckout,
    git: PrivateGit,
    *,
    user: User,
    layered: bool,
    made: Path | None = None,
) -> Layers | Directory:
    """Return the workspace that an earlier life left; raises `RoomUnusable` where it is not whole.

    What was made beside it (checkouts for gates, rescues) goes; so does what the kernel noted for itself.
    What its runtime keeps and what it handed over (`open_beside`) stays.
    """
    wanted = {"upper", "work", "merged"} if layered else {"tree"}
    try:
        open_ways(place.parent, place.name)  # where agents can see it, they can also close it
        found = list(os.scandir(place))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RoomUnusable(f"it cannot be looked at: {error.strerror}") from None
    for entry in found:
        sound = entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == user.uid
        if entry.name not in wanted and not (entry.name in _STAYING and sound):
            await remove_tree(place / entry.name)
        elif not sound:
            raise RoomUnusable(f"{entry.name} in it is no directory of the agents' user")
    if wanted - {entry.name for entry in found} - {"work", "merged"}:
        raise RoomUnusable("it is not whole")
    if not layered:
        return Directory(place / "tree")
    cover = shared.git_cover(git, user)
    layers = Layers(shared.tree, place / "upper", place / "work", place / "merged", cover, made)
    for path in (layers.work, layers.merged):
        await remove_tree(path)
        make_directory(path, 0o755, user)
    return layers


async def copy_files(source: Path, target: Path, user: User) -> None:
    """Copy a tree with its times, by which the index knows it."""
    drop = as_user(user if os.geteuid() == 0 else None)
    done = await run_child(
        [*drop, "cp", "-a", "--reflink=auto", "--", f"{source}/.", str(target)],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        deadline_s=REMOTE_S,
    )
    if not done.exit.ok or done.timed_out:
        raise GitFailed(f"the checkout could not be copied ({done.exit}): {complaint(done.stderr)}")


def is_touched(workspace: Layers | Directory) -> bool:
    """Return whether anything but `.git` may have been written; where that cannot be told, yes."""
    if isinstance(workspace, Directory):
        return True
    try:
        fd = os.open(workspace.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # its mode is the agent's to set
        return True
    try:
        with os.scandir(fd) as listing:
            return any(entry.name != ".git" for entry in listing)
    finally:
        os.close(fd)


def open_up(workspace: Layers | Directory) -> None:
    """Make the top of the workspace enterable again for its owner, who may have locked himself out.

    Its room, too: without a namespace an agent finds it one step up.
    """
    top = workspace.path if isinstance(workspace, Directory) else workspace.upper
    with contextlib.suppress(OSError):
        open_ways(top.parent.parent, top.parent.name, top.name)
