"""Whether a push arrived is asked of a real remote, and journaled once."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.model import AgentId, Phase, PushIntent
from orchestrator.errors import RepositoryError
from orchestrator.journal.store import Store
from orchestrator.repo.bare import Identity
from orchestrator.repo.repositories import Repositories
from orchestrator.repo.url import UrlRules
from orchestrator.supervise.arrival import settle
from sandbox.base import User
from tests.kit.remote import git, make_remote
from tests.supervise.conftest import OpenStore, submit

REF = "refs/heads/agent/t"


@pytest.fixture
def repositories(reachable_path: Path, ordinary_user: User) -> Repositories:
    home = reachable_path / "home"
    home.mkdir()
    rules = UrlRules((reachable_path / "remotes",))
    return Repositories(home, user=ordinary_user, layered=False, rules=rules, identity=Identity("O", "o@o"))


@pytest.fixture
def remote(reachable_path: Path) -> Path:
    remotes = reachable_path / "remotes"
    remotes.mkdir()
    return make_remote(remotes)


async def about_to_push(store: Store, remote: Path, new: str) -> tuple[AgentId, PushIntent]:
    """Bring an agent to the moment after its intent to push was journaled."""
    agent_id = await submit(store, "t")
    await store.submit(c.AssignAgent(agent_id))
    await store.submit(c.StartAgent(agent_id, "bubblewrap"))
    push = PushIntent(remote=f"file://{remote}", ref=REF, old="", new=new)
    task_id = store.state.agents[agent_id].task_id
    await store.record(e.AgentPhase(task_id=task_id, agent_id=agent_id, phase=Phase.LANDING, push=push))
    return agent_id, push


async def arrivals(store: Store) -> int:
    """Return how often an arrival was journaled."""
    return len(await store.events_after(0, types=["push.completed"]))


async def test_an_arrival_is_asked_for_and_told_once(
    opened: OpenStore, repositories: Repositories, remote: Path
) -> None:
    main = git("rev-parse", "main", cwd=remote).strip()
    async with opened() as store:
        agent_id, push = await about_to_push(store, remote, main)
        assert await settle(store, repositories, agent_id) is None
        assert await arrivals(store) == 0
        git("update-ref", REF, main, cwd=remote)
        for _ in range(2):
            assert await settle(store, repositories, agent_id) == push
        assert await arrivals(store) == 1


async def test_gits_own_word_is_enough(opened: OpenStore, repositories: Repositories, remote: Path) -> None:
    async with opened() as store:
        agent_id, push = await about_to_push(store, remote.with_name("gone"), "c" * 40)
        with pytest.raises(RepositoryError):
            await settle(store, repositories, agent_id)
        assert await settle(store, repositories, agent_id, told=True) == push
        assert await settle(store, repositories, agent_id) == push
        assert await arrivals(store) == 1


async def test_an_agent_without_a_push_has_none(opened: OpenStore, repositories: Repositories) -> None:
    async with opened() as store:
        assert await settle(store, repositories, await submit(store, "t")) is None
        assert await settle(store, repositories, AgentId("nobody")) is None
