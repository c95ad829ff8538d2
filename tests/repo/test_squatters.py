"""Somebody put something into the place of a mirror: it is moved aside untouched, and work goes on."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.repo.squatter import STRANGE
from tests.kit.remote import git
from tests.repo.stage import Stage
from tests.repo.test_damaged_mirrors import mirror_of
from tests.repo.test_kept_worktrees import leave, take_up

Harm = Callable[[Path, Path], None]


def file(place: Path, _: Path) -> None:
    """Write a file there."""
    place.write_text("mine")


def link(place: Path, other: Path) -> None:
    """Lead to what looks like a mirror with a stale lock, and is somebody's."""
    place.symlink_to(other)


def dangling(place: Path, _: Path) -> None:
    """Lead nowhere."""
    place.symlink_to("nowhere")


def pipe(place: Path, _: Path) -> None:
    """Make a pipe, which whoever opens it would wait at."""
    os.mkfifo(place)


def foreign(place: Path, other: Path) -> None:
    """Put a directory of another user there."""
    shutil.copytree(other, place)
    os.chown(place, 12345, 12345)


HARMS: list[Harm] = [file, link, dangling, pipe, *([foreign] if os.geteuid() == 0 else [])]


def squat(stage: Stage, tmp_path: Path, harm: Harm) -> Path:
    """Put something into the place of the mirror; return a directory that is not to be touched."""
    mirror, other = mirror_of(stage), tmp_path / "other"
    shutil.rmtree(mirror)
    (other / "refs" / "base").mkdir(parents=True)
    (other / "index.lock").write_text("held")
    harm(mirror, other)
    return other


def strange(stage: Stage) -> list[os.stat_result]:
    """Return what was moved aside."""
    return [path.lstat() for path in (stage.home / "mirrors").iterdir() if path.name.startswith(STRANGE)]


def untouched(other: Path) -> bool:
    """Return whether nothing was written or removed there."""
    return sorted(path.name for path in other.rglob("*")) == ["base", "index.lock", "refs"]


@pytest.mark.parametrize("harm", HARMS)
async def test_it_is_told_as_damage_and_an_agent_goes_on_over_a_new_mirror(
    stage: Stage, tmp_path: Path, harm: Harm
) -> None:
    await leave(stage)
    other = squat(stage, tmp_path, harm)
    was = mirror_of(stage).lstat()
    waste = stage.repositories.find_waste(owned=stage.repositories.directories(), commits=[stage.main])
    assert not waste, "what a link leads to is nobody's litter"
    assert "in its place" in str(stage.repositories.damage(stage.url))
    assert await stage.repositories.renew(stage.url, "main")
    assert stage.repositories.damage(stage.url) is None
    async with take_up(stage) as worktree:
        commit = await stage.deliver(worktree)
    assert git("show", f"{commit}:p", cwd=stage.bare) == "precious\n"
    assert [found.st_ino for found in strange(stage)] == [was.st_ino], "it is there, and the same"
    assert untouched(other)


@pytest.mark.parametrize("harm", HARMS)
async def test_a_start_leaves_it_and_whoever_comes_first_takes_the_place_back(
    stage: Stage, tmp_path: Path, harm: Harm
) -> None:
    await stage.repositories.resolve(stage.url, "main")
    other = squat(stage, tmp_path, harm)
    assert (await stage.repositories.resolve(stage.url, "main")).commit == stage.main
    shutil.rmtree(other)
    other = squat(stage, tmp_path, harm)
    stage.repositories = stage.open_repositories()
    await stage.repositories.sweep()
    assert (await stage.repositories.resolve(stage.url, "main")).commit == stage.main
    assert len(strange(stage)) == 2
    assert all(
        stat.S_IFMT(found.st_mode) == stat.S_IFMT(strange(stage)[0].st_mode) for found in strange(stage)
    )
    assert untouched(other)
