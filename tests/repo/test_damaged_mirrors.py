"""A mirror that a crash, a disk or a hand has damaged: seen, made anew, and nothing lost that was whole."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from orchestrator.errors import RepositoryUnreachable
from orchestrator.repo.renewal import ASIDE
from sandbox.base import Limits
from tests.kit.remote import git
from tests.repo.stage import Stage
from tests.repo.test_kept_worktrees import leave, take_up

Harm = Callable[[Path], None]


def mirror_of(stage: Stage) -> Path:
    """Return the one mirror, set aside ones apart."""
    [mirror] = [path for path in (stage.home / "mirrors").iterdir() if len(path.name) == 64]
    return mirror


def asides(stage: Stage) -> list[str]:
    """Return what was set aside."""
    return [path.name for path in (stage.home / "mirrors").iterdir() if path.name.startswith(ASIDE)]


def files(mirror: Path, pattern: str) -> list[Path]:
    """Return files below the objects, to be written over."""
    found = sorted((mirror / "objects").glob(pattern))
    assert found
    for path in found:
        path.chmod(0o644)
    return found


def empty_indexes(mirror: Path) -> None:
    """Fill the indexes with zeros."""
    for path in files(mirror, "pack/*.idx"):
        path.write_bytes(b"\0" * path.stat().st_size)


def cut_packs(mirror: Path) -> None:
    """Cut the packs in the middle."""
    for path in files(mirror, "pack/*.pack"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_packs(mirror: Path) -> None:
    """Turn a bit in the middle of the packs, and leave their ends as they are."""
    for path in files(mirror, "pack/*.pack"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def remove_packs(mirror: Path) -> None:
    """Remove the packs."""
    for path in files(mirror, "pack/pack-*"):
        path.unlink()


def remove_objects(mirror: Path) -> None:
    """Remove all objects, and the directory that they were in."""
    shutil.rmtree(mirror / "objects")


def tear_loose(mirror: Path) -> None:
    """Take the packs apart, and empty the objects that were in them."""
    for path in files(mirror, "pack/pack-*.pack"):
        path.rename(mirror / path.name)
        remove_packs(mirror)
        with (mirror / path.name).open("rb") as packed:
            subprocess.run(["git", "unpack-objects", "-q"], cwd=mirror, stdin=packed, check=True)
    for path in files(mirror, "[0-9a-f][0-9a-f]/*"):
        path.write_bytes(b"")


def tear_refs(mirror: Path) -> None:
    """Write nonsense into the refs of branches."""
    for path in (mirror / "refs" / "base").iterdir():
        path.write_bytes(b"\0" * 41)


PACKED = [empty_indexes, cut_packs, spoil_packs, remove_packs, remove_objects]


def pack(mirror: Path) -> None:
    """Let everything in a mirror be in one pack."""
    git("repack", "-adq", cwd=mirror)


@pytest.mark.parametrize("harm", [*PACKED, tear_loose, tear_refs])
async def test_a_damaged_mirror_is_known_made_anew_and_work_on_it_goes_on(stage: Stage, harm: Harm) -> None:
    began = stage.main
    await leave(stage)
    stage.advance()
    mirror = mirror_of(stage)
    if harm in PACKED:
        pack(mirror)
    harm(mirror)
    stage.repositories = stage.open_repositories()
    assert await stage.repositories.examine(stage.url, began, thorough=True)
    stage.repositories = stage.open_repositories()  # it is known after a crash, too
    assert stage.repositories.damage(stage.url)
    assert await stage.repositories.renew(stage.url, "main", [began])
    assert stage.repositories.damage(stage.url) is None
    assert await stage.repositories.examine(stage.url, began, thorough=True) is None
    assert not await stage.repositories.renew(stage.url, "main"), "it is whole"
    assert len(asides(stage)) == 1
    async with take_up(stage) as worktree:
        assert worktree.base.commit == began
        commit = await stage.deliver(worktree)
    assert git("show", f"{commit}:p", cwd=stage.bare) == "precious\n"


@pytest.mark.parametrize("harm", [empty_indexes, cut_packs, remove_packs, remove_objects])
async def test_a_look_is_enough_for_most_damage_after_a_start(stage: Stage, harm: Harm) -> None:
    await stage.repositories.resolve(stage.url, "main")
    pack(mirror_of(stage))
    assert stage.repositories.damage(stage.url) is None
    harm(mirror_of(stage))
    assert stage.repositories.damage(stage.url)


async def test_what_was_salvaged_is_in_the_new_mirror(stage: Stage) -> None:
    async with stage.open_worktree() as worktree:
        pack(mirror_of(stage))
        packs = files(mirror_of(stage), "pack/pack-*")
        await stage.must(worktree, "echo precious > p")
        ref = await worktree.salvage(limits=Limits(), deadline_s=20)
    assert ref
    for path in packs:
        path.unlink()
    assert await stage.repositories.examine(stage.url, stage.main, thorough=False)
    await stage.repositories.renew(stage.url, "main")
    assert b"+precious" in await stage.repositories.diff(stage.url, stage.main, ref, max_bytes=10_000)


async def test_a_commit_that_the_remote_has_no_more_is_had_from_what_is_whole(stage: Stage) -> None:
    first = stage.advance("first\n")
    await leave(stage)
    seed = stage.remotes / "repo.seed"
    git("reset", "-q", "--hard", "HEAD~1", cwd=seed)
    stage.advance("other\n")
    git("reflog", "expire", "--expire=now", "--all", cwd=stage.bare)
    git("gc", "-q", "--prune=now", cwd=stage.bare)
    await stage.repositories.resolve(stage.url, "main")
    tear_refs(mirror_of(stage))
    async with take_up(stage) as worktree:
        assert worktree.base.commit == first
    assert stage.repositories.damage(stage.url)
    await stage.repositories.renew(stage.url, "main", [first])
    await leave(stage)


async def test_without_the_remote_the_damaged_one_stays_until_there_is_another(stage: Stage) -> None:
    await leave(stage)
    pack(mirror_of(stage))
    remove_packs(mirror_of(stage))
    assert await stage.repositories.examine(stage.url, stage.main, thorough=False)
    real = stage.bare.with_name("real.git")
    stage.bare.rename(real)
    stage.bare.mkdir()
    with pytest.raises(RepositoryUnreachable):
        await stage.repositories.renew(stage.url, "main")
    assert (stage.repositories.damage(stage.url), asides(stage)) != (None, [])
    assert len(list((stage.home / "mirrors").iterdir())) == 1
    stage.bare.rmdir()
    real.rename(stage.bare)
    assert await stage.repositories.renew(stage.url, "main")


async def test_of_many_who_wait_for_a_new_mirror_one_makes_it_once_nobody_uses_the_old(stage: Stage) -> None:
    base = await stage.repositories.resolve(stage.url, "main")
    pack(mirror_of(stage))
    remove_packs(mirror_of(stage))
    assert await stage.repositories.examine(stage.url, stage.main, thorough=False)
    made: list[bool] = []

    async def renew() -> None:
        made.append(await stage.repositories.renew(stage.url, "main"))

    async with trio.open_nursery() as waiting:
        with base.mirror.hold():
            for _ in range(3):
                waiting.start_soon(renew)
            await trio.testing.wait_all_tasks_blocked(0.2)
            assert made == []
    assert sorted(made) == [False, False, True]
    assert len(asides(stage)) == 1


async def test_a_mirror_that_is_removed_under_our_feet_is_made_again(stage: Stage) -> None:
    await leave(stage)
    await stage.repositories.resolve(stage.url, "main")
    shutil.rmtree(mirror_of(stage))
    async with take_up(stage) as worktree:
        assert await stage.deliver(worktree)


@pytest.mark.parametrize("moment", ["half made", "between"])
async def test_a_crash_while_it_is_made_anew_loses_nothing(stage: Stage, moment: str) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "echo precious > p")
        ref = await worktree.salvage(limits=Limits(), deadline_s=20)
    assert ref
    mirror, root = mirror_of(stage), stage.home / "mirrors"
    shutil.copytree(mirror, root / "anew-0123456789abcdef")
    if moment == "between":
        mirror.rename(root / f"{ASIDE}{mirror.name}-0123456789abcdef")
    stage.repositories = stage.open_repositories()
    await stage.repositories.sweep()
    assert [path.name for path in root.iterdir()] == [mirror.name]
    assert b"+precious" in await stage.repositories.diff(stage.url, stage.main, ref, max_bytes=10_000)


async def test_what_was_set_aside_is_told_as_waste_and_few_of_it_outlive_a_start(stage: Stage) -> None:
    for _ in range(4):
        await stage.repositories.resolve(stage.url, "main")
        tear_refs(mirror_of(stage))
        await stage.repositories.renew(stage.url, "main")
    await stage.repositories.sweep()
    assert len(asides(stage)) == 2
    waste = [each for each in stage.repositories.find_waste(owned=(), commits=()) if each.kind == "aside"]
    for each in waste:
        assert await stage.repositories.discard(each)
    assert (len(waste), asides(stage)) == (2, [])
    with suppress(FileNotFoundError):
        assert mirror_of(stage)


@pytest.mark.parametrize("name", ["HEAD", "config"])
async def test_what_git_reads_first_is_put_right_and_nothing_is_lost(stage: Stage, name: str) -> None:
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "echo precious > p")
        (mirror_of(stage) / name).write_bytes(b"\0" * 20)
        commit = await stage.deliver(worktree)
    assert git("cat-file", "-t", commit, cwd=stage.bare) == "commit\n"
    assert asides(stage) == []
