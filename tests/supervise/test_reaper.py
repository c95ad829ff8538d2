"""Registry and reality are made to agree, whichever of the two is wrong."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.core import commands as c
from orchestrator.core.model import AgentId, Phase, Reason
from orchestrator.core.recovery import directory_of
from orchestrator.journal.store import Store
from orchestrator.repo.bare import Identity
from orchestrator.repo.repositories import Repositories
from orchestrator.repo.url import UrlRules
from orchestrator.supervise.gear import Tools
from orchestrator.supervise.reaper import Reaper, Recovered
from sandbox.base import LABEL_VARIABLE, Limits, User
from sandbox.trusted import ProcessBackend
from tests.supervise.conftest import OpenStore, submit

OpenWard = Callable[[], AbstractAsyncContextManager["Ward"]]
Owned = Callable[[str], Awaitable[bool]]


@dataclass
class Ward:
    """A reaper on a real journal and a real state directory, with what counts as running."""

    store: Store
    home: Path
    reaper: Reaper
    tools: Tools
    backend: ProcessBackend
    running: set[AgentId] = field(default_factory=set)

    def make_room(self, name: str) -> None:
        """Make a directory and its quarantine, as a run begins to."""
        for root in ("workspaces", "quarantine"):
            (self.home / root / name / "x").mkdir(parents=True)

    @property
    def rooms(self) -> set[str]:
        """The names of the directories that are there."""
        roots = (self.home / "workspaces", self.home / "quarantine")
        return {path.name for root in roots for path in root.iterdir()}

    async def told(self) -> int:
        """Return how often it was journaled that something was put right."""
        return len(await self.store.events_after(0, types=["system.recovered"]))


@pytest.fixture
def ward(reachable_path: Path, opened: OpenStore, ordinary_user: User) -> OpenWard:
    @asynccontextmanager
    async def open_ward() -> AsyncIterator[Ward]:
        home = reachable_path / "home"
        (home / "scratch").mkdir(parents=True)
        backend = ProcessBackend(ordinary_user)
        rules, identity = UrlRules((reachable_path,)), Identity("O", "o@o")
        repositories = Repositories(home, user=backend.user, layered=False, rules=rules, identity=identity)
        async with opened() as store:
            tools = Tools(store, repositories, home / "scratch", Limits(), yolo=False)
            running: set[AgentId] = set()
            reaper = Reaper(tools, backend, running=lambda: running)
            yield Ward(store, home, reaper, tools, backend, running)

    return open_ward


async def active(store: Store, task: str) -> AgentId:
    """Return an agent that has a slot."""
    agent_id = await submit(store, task)
    await store.submit(c.AssignAgent(agent_id))
    return agent_id


async def test_nothing_to_put_right_is_not_told(ward: OpenWard) -> None:
    async with ward() as w:
        await submit(w.store, "waits")
        assert await w.reaper.recover() == Recovered()
        assert await w.reaper.take_pass() == Recovered()
        assert await w.told() == 0


async def test_what_nobody_owns_goes_and_what_somebody_owns_stays(ward: OpenWard) -> None:
    async with ward() as w:
        own = directory_of(await active(w.store, "t"), "t")
        for name in (own, "agent-gone-t"):
            w.make_room(name)
        assert await w.reaper.recover() == Recovered(resumed=1, reaped=1)
        assert w.rooms == {own}
        w.make_room("agent-later-u")
        assert (await w.reaper.take_pass()).reaped == 1
        assert w.rooms == {own}
        assert await w.told() == 2


async def test_what_cannot_be_removed_holds_up_neither_a_start_nor_the_rest(ward: OpenWard) -> None:
    async with ward() as w:
        cut = await active(w.store, "cut")
        w.make_room("agent-nobody-t")
        (w.home / "workspaces").rename(w.home / "elsewhere")
        (w.home / "workspaces").write_text("no directory, so nothing in it can be removed")
        assert await w.reaper.recover() == Recovered(resumed=1)
        assert w.store.state.agents[cut].phase is Phase.QUEUED
        await w.store.submit(c.AssignAgent(cut))
        assert [await w.reaper.take_pass() for _ in range(2)] == [Recovered(), Recovered(resumed=1)]


async def test_files_for_agents_that_are_no_more_go(ward: OpenWard) -> None:
    async with ward() as w:
        w.running.add(AgentId("runs"))
        for name in ("runs", "gone"):
            (w.home / "scratch" / f"{name}.prompt-1.md").touch()
        (w.home / "scratch" / "sandbox-gate-c0ffee-home").mkdir()
        await w.reaper.take_pass()
        left = {path.name for path in (w.home / "scratch").iterdir()}
        assert left == {"runs.prompt-1.md", "sandbox-gate-c0ffee-home"}, "a home ends with its sandbox"


async def test_a_directory_for_such_files_that_was_tidied_away_is_made_anew(ward: OpenWard) -> None:
    async with ward() as w:
        (w.home / "scratch").rmdir()
        await w.reaper.take_pass()
        assert stat.S_IMODE((w.home / "scratch").stat().st_mode) == 0o711


async def test_a_file_whose_agent_begins_to_run_while_garbage_is_collected_stays(ward: OpenWard) -> None:
    async with ward() as w:
        files = [w.home / "scratch" / f"{name}.prompt-1.md" for name in ("again", "gone")]
        for file in files:
            file.touch()
        looks = iter([(), ()])  # at each file, when it is found; then one of them runs
        reaper = Reaper(w.tools, w.backend, running=lambda: next(looks, (AgentId("again"),)))
        again, gone = (await reaper.collect_garbage(dry_run=False)).items
        assert (again.removed, again.error) == (False, "somebody has come to need it meanwhile")
        assert gone.removed
        assert [file.exists() for file in files] == [True, False]


async def test_an_agent_that_counts_as_active_without_a_run_returns_to_the_queue(ward: OpenWard) -> None:
    async with ward() as w:
        lost, runs = await active(w.store, "t"), await active(w.store, "u")
        w.running.add(runs)
        assert await w.reaper.take_pass() == Recovered(), "it may just be about to start"
        assert await w.reaper.take_pass() == Recovered(resumed=1)
        assert w.store.state.agents[lost].phase is Phase.QUEUED
        assert w.store.state.agents[lost].crashes == 0
        assert w.store.state.agents[runs].active


async def test_an_ended_agent_is_cleaned_up_after_and_only_once_its_run_is_over(ward: OpenWard) -> None:
    async with ward() as w:
        agent_id = await active(w.store, "t")
        w.make_room(directory_of(agent_id, "t"))
        w.running.add(agent_id)
        await w.store.submit(c.KillAgent(agent_id, Reason.OPERATOR))
        await w.reaper.take_pass()
        assert w.rooms
        w.running.clear()
        await w.reaper.take_pass()
        assert not w.rooms
        assert agent_id not in w.store.state.agents
        [cleanup] = await w.store.events_after(0, types=["agent.cleanup"])
        assert "never whole" in str(cleanup.event)


@contextmanager
def labelled(label: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that carries a label."""
    with subprocess.Popen(["sleep", "1000"], env={LABEL_VARIABLE: label}) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_processes_are_ended_that_an_agent_of_ours_left_and_no_others(ward: OpenWard) -> None:
    async with ward() as w:
        ours, runs = await active(w.store, "t"), await active(w.store, "u")
        w.running.add(runs)
        with labelled(ours) as left, labelled(runs) as alive, labelled("of-somebody-else") as theirs:
            assert (await w.reaper.take_pass()).reaped == 1
            assert left.wait(10) == -9
            assert (alive.poll(), theirs.poll()) == (None, None)


async def test_what_a_backend_left_is_reaped_by_the_label(ward: OpenWard) -> None:
    async with ward() as w:
        ours, runs = await active(w.store, "t"), await active(w.store, "u")
        w.running.add(runs)
        seen: dict[str, bool] = {}

        async def reap(owned: Owned) -> int:
            seen.update({label: await owned(label) for label in (ours, runs, "of-somebody-else")})
            return 1

        w.reaper.leftovers = (reap,)
        assert (await w.reaper.take_pass()).reaped == 1
        assert seen == {ours: True, runs: False, "of-somebody-else": False}
