"""A real store on a temporary home, with its writer running, and specifications to submit."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from orchestrator.core import events as e
from orchestrator.core.commands import SubmitTask
from orchestrator.core.model import AgentId
from orchestrator.core.spec import TaskSpec
from orchestrator.journal.store import Store, open_store, utc_now
from tests.kit.processes import fresh_mark

_NUMBERS = itertools.count(1)
_RUN = fresh_mark("agent")

OpenStore = Callable[..., AbstractAsyncContextManager[Store]]


def spec_of(task: str, **fields: object) -> TaskSpec:
    """Return a specification that never meets a real repository."""
    body = {"taskId": task, "context": {"repository": "https://example.com/r.git"}, **fields}
    return TaskSpec.model_validate(body)


async def submit(store: Store, task: str, **fields: object) -> AgentId:
    """Submit a task and return its agent, whose id no other run has: a reaper looks host-wide for it."""
    agent_id = AgentId(f"{_RUN}-{next(_NUMBERS)}")
    await store.submit(SubmitTask(spec_of(task, **fields), agent_id, "command"))
    return agent_id


@pytest.fixture
def opened(tmp_path: Path) -> OpenStore:
    """Return a way to open the store of this test's home, with ceilings."""

    @asynccontextmanager
    async def opened(*, slots: int = 2) -> AsyncIterator[Store]:
        home = tmp_path / "home"
        async with (
            open_store(home, home / "journal.db", clock=utc_now) as store,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(store.run)
            started = e.SystemStarted(
                version="test", sandbox="none", max_agents=slots, queue_concurrency=slots, max_queued=1000
            )
            await store.record(started)
            yield store
            nursery.cancel_scope.cancel()

    return opened
