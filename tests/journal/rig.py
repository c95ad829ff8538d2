"""What the tests of the journal share: a running store, and agents brought to where a test begins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from orchestrator.core.commands import AssignAgent, StartAgent, SubmitTask
from orchestrator.core.events import Recorded, SystemStarted
from orchestrator.core.model import AgentId, TaskId
from orchestrator.core.spec import Context, Options, TaskSpec
from orchestrator.journal.store import Store, open_store


def spec(task_id: str, *, priority: int = 5, max_retries: int = 3, instructions: str = "do it") -> TaskSpec:
    """Return a small specification."""
    return TaskSpec(
        task_id=task_id,
        priority=priority,
        context=Context(repository="https://example.org/r.git", instructions=instructions),
        options=Options(max_retries=max_retries),
    )


def submission(task_id: str, agent_id: str, **words: Any) -> SubmitTask:  # noqa: ANN401 - those of `spec`
    """Return the command that queues a small task."""
    return SubmitTask(spec(task_id, **words), AgentId(agent_id), "command")


@asynccontextmanager
async def running_store(home: Path, *, max_agents: int = 50, **words: Any) -> AsyncIterator[Store]:  # noqa: ANN401
    """Own a store whose writer runs, as after a start."""
    async with open_store(home, home / "orchestrator.db", **words) as store, trio.open_nursery() as nursery:
        await nursery.start(store.run)
        if store.state.control.max_agents != max_agents:
            await store.record(started(max_agents))
        yield store
        nursery.cancel_scope.cancel()


def started(max_agents: int = 50) -> SystemStarted:
    """Return the event of a start with so many slots."""
    return SystemStarted(
        version="0", sandbox="none", max_agents=max_agents, queue_concurrency=max_agents, max_queued=1000
    )


async def work(store: Store, task_id: str, agent_id: str, **words: Any) -> dict[str, Any]:  # noqa: ANN401
    """Bring a new agent to where its program runs; return the ids of its events."""
    await store.submit(submission(task_id, agent_id, **words))
    await store.submit(AssignAgent(AgentId(agent_id)))
    await store.submit(StartAgent(AgentId(agent_id), "none"))
    return {"task_id": TaskId(task_id), "agent_id": AgentId(agent_id)}


def names(recorded: Sequence[Recorded]) -> list[str]:
    """Return the events' names."""
    return [one.event.name for one in recorded]
