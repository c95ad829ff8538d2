"""When a mirror is there: made when needed, gone where it never got anything, never under anybody's feet."""

from __future__ import annotations

import gc

import pytest
import trio
import trio.testing

from orchestrator.errors import BranchMissing, RepositoryError
from orchestrator.repo.mirrors import Mirror
from orchestrator.repo.repositories import Repositories
from tests.kit.remote import make_remote
from tests.repo.stage import Stage


def mirrors(stage: Stage) -> list[str]:
    """Return the names of what is kept of remotes."""
    return sorted(path.name for path in (stage.home / "mirrors").iterdir())


async def test_a_remote_that_gives_nothing_fails_all_who_ask_for_the_reason_that_it_has(stage: Stage) -> None:
    said: list[str] = []

    async def ask(branch: str) -> None:
        with pytest.raises(RepositoryError) as refused:
            await stage.repositories.resolve(stage.url, branch)
        said.append(f"{type(refused.value).__name__} {refused.value.detail}")

    async with trio.open_nursery() as askers:
        askers.start_soon(ask, "nope")
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):  # they wait for a fetch that begins after the first has failed
            askers.start_soon(ask, "nope")
    assert said == [f"BranchMissing {stage.url} has no branch nope"] * 3
    assert mirrors(stage) == []
    assert (await stage.repositories.resolve(stage.url, "main")).commit == stage.main


async def test_a_fetch_goes_on_where_another_of_the_same_remote_fails(stage: Stage) -> None:
    got: list[str] = []

    async def ask(branch: str) -> None:
        try:
            got.append((await stage.repositories.resolve(stage.url, branch)).commit)
        except BranchMissing:
            got.append("missing")

    async with trio.open_nursery() as askers:
        for branch in ("nope", "main", "none", "main"):
            askers.start_soon(ask, branch)
    assert sorted(got) == sorted([stage.main, stage.main, "missing", "missing"])
    assert len(mirrors(stage)) == 1


async def test_a_question_about_an_unknown_remote_leaves_nothing(stage: Stage) -> None:
    assert await stage.repositories.observe(stage.url, "refs/heads/main") == stage.main
    (stage.remotes / "plain").mkdir()
    with pytest.raises(RepositoryError):
        await stage.repositories.observe(f"file://{stage.remotes}/plain", "refs/heads/main")
    for _ in range(3):
        with trio.CancelScope() as scope:
            scope.cancel()
            await stage.repositories.observe(stage.url, "refs/heads/main")
    assert mirrors(stage) == []


async def test_empty_mirrors_of_a_crash_are_gone_after_a_start_and_full_ones_stay(stage: Stage) -> None:
    await stage.repositories.resolve(stage.url, "main")
    (kept,) = mirrors(stage)
    root = stage.home / "mirrors"
    for name in ("0" * 64, "1" * 64, "gone-0123456789abcdef"):
        (root / name / "refs" / "base").mkdir(parents=True)
    (root / ("1" * 64) / "refs" / "base" / f"{'a' * 40}.lock").touch()
    (root / "note.txt").touch()
    fresh = stage.open_repositories()
    await fresh.sweep()
    assert mirrors(stage) == sorted([kept, "note.txt"])
    assert (await fresh.resolve(stage.url, "main")).commit == stage.main


def living_mirrors(stage: Stage) -> list[Mirror]:
    """Return every mirror that anybody still refers to."""
    gc.collect()
    found = [each for each in gc.get_objects() if isinstance(each, Mirror)]
    return [each for each in found if stage.home in each.directory.parents]


async def test_mirrors_that_nobody_uses_are_forgotten(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.repo.shelf.RECENT", 2)
    repositories: Repositories = stage.open_repositories()
    base = await repositories.resolve(stage.url, "main")
    for number in range(4):
        url = f"file://{make_remote(stage.remotes, f'other{number}')}"
        assert (await repositories.resolve(url, "main")).commit
    assert len(living_mirrors(stage)) == 3
    assert (await repositories.resolve(stage.url, "main")).mirror is base.mirror
    assert len(mirrors(stage)) == 5
