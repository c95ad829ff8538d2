"""Removal: only what is named, however it was left."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio

from orchestrator.repo.removal import remove_tree


def names(path: Path) -> list[str]:
    """Return what is left in a directory."""
    return sorted(entry.name for entry in path.iterdir())


async def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    doomed = tmp_path / "doomed"
    (doomed / "d").mkdir(parents=True)
    (doomed / "d" / "link").symlink_to(victim)
    (doomed / "up").symlink_to("..")
    os.mkfifo(doomed / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(doomed / "s"))
    await remove_tree(doomed)
    assert names(tmp_path) == ["victim"]
    assert (victim / "file").exists()


async def test_a_link_in_place_of_the_tree_is_removed_alone(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "doomed").symlink_to(victim)
    await remove_tree(tmp_path / "doomed")
    await remove_tree(tmp_path / "doomed")
    assert names(tmp_path) == ["victim"]


async def test_forbidden_directories_are_removed(tmp_path: Path) -> None:
    doomed = tmp_path / "doomed"
    (doomed / "a" / "b").mkdir(parents=True)
    (doomed / "a" / "b" / "f").touch()
    (doomed / "a" / "b").chmod(0)
    (doomed / "a").chmod(0)
    doomed.chmod(0)
    await remove_tree(doomed)
    assert names(tmp_path) == []


async def test_a_tree_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    (doomed / "deep-0").mkdir()
    fd = os.open(doomed, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.fchmod(fd, 0)
    os.close(fd)
    await remove_tree(doomed)
    assert names(tmp_path) == []


async def test_a_removal_that_was_cut_short_is_finished_by_the_next(tmp_path: Path) -> None:
    doomed = tmp_path / "doomed"
    for number in range(1500):
        path = doomed / f"d{number % 7}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with trio.CancelScope() as scope:
        scope.cancel()
        await remove_tree(doomed)
    assert doomed.exists()
    await remove_tree(doomed)
    assert not doomed.exists()


async def test_a_tree_that_cannot_be_removed_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await remove_tree(tmp_path / "none" / "below")
