"""Everything between the journal and the remotes, in the test's own nursery: no HTTP, no process of its own.

For faults that must strike at a known step. What `assembly` does between the store and the API is done here
in the same order.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import trio

from orchestrator.core import events as e
from orchestrator.core.commands import SubmitTask
from orchestrator.core.model import Agent, AgentId
from orchestrator.core.spec import TaskSpec
from orchestrator.journal.database import Connect, connect
from orchestrator.journal.store import Store, open_store, utc_now
from orchestrator.repo.bare import Identity
from orchestrator.repo.removal import remove_tree
from orchestrator.repo.repositories import Repositories
from orchestrator.repo.url import UrlRules
from orchestrator.supervise.gear import Tools
from orchestrator.supervise.liveness import Attendant
from orchestrator.supervise.reaper import Reaper
from orchestrator.supervise.supervisor import Supervisor
from sandbox.base import Backend, Limits, User
from sandbox.trusted import ProcessBackend

GATE = "[gates.tests]\ncommand = ['sh', 'test.sh']\n"
#: A repository whose gate passes where `value` is above 0.
GATED = {
    "value": "1\n",
    "test.sh": 'echo "1..1"; [ "$(cat value)" -gt 0 ] && echo "ok 1 - positive" ||'
    ' { echo "not ok 1 - positive"; exit 1; }\n',
    "orchestrator.toml": GATE,
}
#: Rejected at its first turn, lands at its second.
SECOND_THOUGHTS = 'if [ "$ORCHESTRATOR_TURN" = 1 ]; then echo -1 > value; else echo 7 > value; fi'


def new_id() -> str:
    """Return a fresh opaque id."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Plane:
    """What runs."""

    store: Store
    supervisor: Supervisor
    repositories: Repositories
    #: Around the agents: cancelled where nothing of them is waited for any more.
    running: trio.CancelScope

    async def submit(
        self,
        remote: Path,
        script: str,
        task: str,
        *,
        gated: bool = False,
        gates: Sequence[str] = (),
        retries: int = 0,
        runtime: str = "command",
        **options: object,
    ) -> str:
        """Hand a task over, the script as its command and its instructions, and return its agent."""
        body = {
            "taskId": task,
            "gateProfile": "minimal" if gated else "custom",
            "context": {"repository": f"file://{remote}", "branch": "main", "instructions": script},
            "options": {
                "runtime": runtime,
                "command": ["sh", "-c", script],
                "maxRetries": retries,
                **options,
            },
            **({} if gated and not gates else {"gates": list(gates)}),
        }
        agent = AgentId(new_id())
        await self.store.submit(SubmitTask(TaskSpec.model_validate(body), agent, runtime))
        return agent

    async def over(self, agent_id: str) -> Agent:
        """Wait until the agent has ended and was cleaned up after, and return it as the tables have it."""
        while True:
            seq = self.store.state.seq
            agent = await self.store.find_agent(agent_id)
            if agent is not None and agent.clean and agent.status.ended:
                return agent
            await self.store.wait_past(seq)


@asynccontextmanager
async def open_plane(
    home: Path,
    *,
    user: User,
    roots: Path,
    slots: int = 4,
    backend: Backend | None = None,
    clock: Callable[[], datetime] = utc_now,
    connect: Connect = connect,
    **tools_of: Any,  # noqa: ANN401 - what they are
) -> AsyncGenerator[Plane, None]:
    """Recover what is there, and run agents until the block is left; then they return to the queue.

    `tools_of` are further fields of `Tools`.
    """
    backend = backend or ProcessBackend(user, path="/usr/bin:/bin")
    async with (
        open_store(home, home / "orchestrator.db", clock=clock, connect=connect) as store,
        trio.open_nursery() as services,
    ):
        scratch = home / "scratch"
        await remove_tree(scratch)
        scratch.mkdir()
        scratch.chmod(0o711)
        await services.start(store.run)
        repositories = Repositories(
            home,
            user=backend.user,
            layered=backend.layered,
            rules=UrlRules((roots,)),
            identity=Identity("Orchestrator", "orchestrator@localhost"),
        )
        tools = Tools(store, repositories, scratch, Limits(), **{"yolo": False, **tools_of})
        supervisor = Supervisor(
            store,
            tools,
            backend,
            timeout_s=600,
            takes_work=True,
            clock=clock,
            new_id=new_id,
        )
        reaper = Reaper(tools, backend, running=supervisor.running, clock=clock)
        await reaper.recover()
        started = e.SystemStarted(
            version="test", sandbox=backend.name, max_agents=slots, queue_concurrency=slots, max_queued=1000
        )
        await store.record(started)
        await reaper.take_pass()
        services.start_soon(Attendant(supervisor.lives).run)
        async with trio.open_nursery() as agents:
            running = await agents.start(run, supervisor)
            yield Plane(store, supervisor, repositories, running)
            supervisor.stop()
        services.cancel_scope.cancel()


async def run(
    supervisor: Supervisor, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.CancelScope() as running:
        task_status.started(running)
        await supervisor.run()
