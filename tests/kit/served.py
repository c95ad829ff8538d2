"""The API on real sockets over a real store, in the test's own nursery; only the kill switch is scripted."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from quart_trio import QuartTrio

from orchestrator.api import sample
from orchestrator.api.app import create_app
from orchestrator.api.server import open_listeners, run_server
from orchestrator.api.services import Limits, Services
from orchestrator.client import Client, open_client
from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.mirror import MirrorCompared
from orchestrator.core.model import Agent, AgentId, Reason
from orchestrator.core.reports import Garbage, GarbageReport, KillAllReport, KillReport, SwitchReport
from orchestrator.core.salvages import Salvage, SalvageDetail, SalvageDropped, SalvageList
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import AgentUnknown, AlreadyEnded, OrchestratorError, UrlRefused
from orchestrator.journal.store import Store, open_store, utc_now

TOKEN = "test-token-0123456789"


@dataclass
class ScriptedKillSwitch:
    """Ends agents in the journal alone, and remembers who asked."""

    store: Store
    actors: list[str] = field(default_factory=list)
    error: OrchestratorError | None = None

    async def kill(self, agent_id: AgentId, *, actor: str) -> KillReport:
        self.actors.append(actor)
        if self.error is not None:
            raise self.error
        agent = await self.store.find_agent(agent_id)
        if agent is None:
            raise AgentUnknown(f"there is no agent {agent_id}")
        if not agent.live:
            raise AlreadyEnded
        await self.store.submit(c.KillAgent(agent_id, Reason.OPERATOR, killed_processes=7, elapsed_ms=14.2))
        return KillReport(agent_id, killed_processes=7, remaining=0, elapsed_ms=14.2)

    async def kill_all(self, *, actor: str, freeze: bool = False) -> KillAllReport:
        if freeze:
            await self.store.submit(c.Freeze())
        live = [agent.id for agent in self.store.state.agents.values() if agent.live]
        for agent_id in live:
            await self.kill(agent_id, actor=actor)
        return KillAllReport(len(live), len(live), 0, (), 0, 31.7)


@dataclass
class ScriptedSwitches:
    """Turns the switches in the journal alone, and remembers who asked for what."""

    store: Store
    turned: list[tuple[str, str]] = field(default_factory=list)
    error: OrchestratorError | None = None

    async def freeze(self, *, actor: str) -> SwitchReport:
        return await self._turn("freeze", actor, c.Freeze())

    async def thaw(self, *, actor: str) -> SwitchReport:
        return await self._turn("thaw", actor, c.Thaw())

    async def drain(self, *, actor: str) -> SwitchReport:
        return await self._turn("drain", actor, c.Drain())

    async def _turn(self, what: str, actor: str, command: c.Command) -> SwitchReport:
        self.turned.append((what, actor))
        if self.error is not None:
            raise self.error
        await self.store.submit(command)
        control = self.store.state.control
        return SwitchReport(
            control.frozen, control.draining, agents=2, processes=17, starting=0, elapsed_ms=2.1
        )


@dataclass
class Served:
    """A server that answers, and what is behind it."""

    store: Store
    services: Services
    kill_switch: ScriptedKillSwitch
    app: QuartTrio
    port: int
    socket: Path
    shutdown: trio.Event
    stopped: trio.Event
    diffs: dict[str, bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open_client(self, token: str | None = TOKEN) -> AbstractAsyncContextManager[Client]:
        """Open a client over TCP."""
        return open_client(self.url, token=token)

    async def start(self, agent_id: str, *, sandbox: str = "process") -> None:
        """Let an agent begin to run."""
        await self.store.submit(c.AssignAgent(AgentId(agent_id)))
        await self.store.submit(c.StartAgent(AgentId(agent_id), sandbox))

    async def finish(self, agent_id: str) -> None:
        """Let an agent end well, with nothing left on the host."""
        agent = await self.store.find_agent(agent_id)
        assert agent is not None
        await self.store.submit(c.CompleteAgent(agent.id, Reason.DONE, commit="0" * 40))
        await self.store.record(e.AgentCleanup(task_id=agent.task_id, agent_id=agent.id))

    @asynccontextmanager
    async def open_raw(self) -> AsyncIterator[trio.SocketStream]:
        """Open a bare connection."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            yield stream

    async def raw(self, request: bytes | str, *, unix: bool = False) -> RawAnswer:
        """Send bytes as they are and return the whole answer."""
        stream = (
            await trio.open_unix_socket(str(self.socket))
            if unix
            else await trio.open_tcp_stream("127.0.0.1", self.port)
        )
        async with stream:
            with trio.fail_after(20):
                return await self._exchange(stream, request)

    async def _exchange(self, stream: trio.SocketStream, request: bytes | str) -> RawAnswer:
        await stream.send_all(request if isinstance(request, bytes) else request.encode("latin-1"))
        return await read_answer(stream)

    async def ask(
        self, method: str, path: str, *, body: object = None, content: bytes | None = None, **headers: str
    ) -> RawAnswer:
        """Make a well-formed request with the token; header names are written with `_`."""
        content = json.dumps(body).encode() if body is not None else content or b""
        lines = {
            "Host": "localhost",
            "Authorization": f"Bearer {TOKEN}",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        return await self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + content)


@dataclass
class RawAnswer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON value
        return json.loads(self.body)

    def problem(self) -> dict[str, Any]:
        """Return the problem document, which this must be, whole and without secrets of the host."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        document = self.json
        assert {"type", "title", "status", "code", "detail"} <= document.keys()
        assert document["status"] == self.status
        assert "Traceback" not in self.body.decode()
        assert "/work" not in self.body.decode()
        return document


async def read_answer(stream: trio.abc.ReceiveStream) -> RawAnswer:
    """Read one response off the stream."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = await stream.receive_some()
        if not chunk:
            return RawAnswer(0, {}, data)
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    if first.split(" ")[1] == "101":
        return RawAnswer(101, headers, body)
    length = int(headers.get("content-length", "-1"))
    while len(body) < length or (length < 0 and not body.endswith(b"0\r\n\r\n")):
        chunk = await stream.receive_some()
        if not chunk:
            break
        body += chunk
    if length < 0:
        body = b"".join(re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n(?=[0-9a-f]+\r\n)", body, re.DOTALL))
    return RawAnswer(int(first.split(" ")[1]), headers, body)


def task(task_id: str = "T-1", **over: object) -> dict[str, Any]:
    """Return the body of a spawn."""
    return {"taskId": task_id, "context": {"repository": "https://git.example.com/r.git"}, **over}


@asynccontextmanager
async def serve_api(
    home: Path, *, limits: Limits | None = None, grace_s: float = 2.0, **over: object
) -> AsyncIterator[Served]:
    """Serve the API until the block ends; the store lives on until the server is gone."""
    async with open_store(home, home / "orchestrator.db") as store, trio.open_nursery() as writing:
        await writing.start(store.run)
        await store.record(
            e.SystemStarted(
                version="1", sandbox="process", max_agents=10, queue_concurrency=10, max_queued=1000
            )
        )
        kill_switch, diffs = ScriptedKillSwitch(store), {}
        services = make_services(store, kill_switch, diffs, limits or Limits(), **over)
        app = create_app(services)
        listeners = open_listeners("127.0.0.1", 0, home / "orchestrator.sock")
        shutdown, stopped = trio.Event(), trio.Event()
        served = Served(
            store,
            services,
            kill_switch,
            app,
            listeners[0].getsockname()[1],
            home / "orchestrator.sock",
            shutdown,
            stopped,
            diffs,
        )
        async with trio.open_nursery() as serving:

            async def run(task_status: trio.TaskStatus[None]) -> None:
                task_status.started()  # the listeners are open: whoever connects now waits
                await run_server(app, listeners, shutdown=shutdown, grace_s=grace_s)
                stopped.set()

            await serving.start(run)
            try:
                yield served
            finally:
                shutdown.set()
        writing.cancel_scope.cancel()


def make_services(
    store: Store, kill_switch: ScriptedKillSwitch, diffs: dict[str, bytes], limits: Limits, **over: object
) -> Services:
    """Return what the API is given, everything beside the store made up."""

    def check_task(spec: TaskSpec) -> str:
        if spec.context.repository.startswith("ext::"):
            raise UrlRefused("the scheme ext is not allowed here")
        return spec.options.runtime or "command"

    async def readiness() -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        return {"journal": "ok", "sandbox": "process"}

    async def diff(agent: Agent) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return diffs.get(agent.id)

    def resources(_agent_id: AgentId) -> dict[str, Any]:
        return {"memoryBytes": 1024, "cpuSeconds": 0.5, "processes": 3}

    async def collect_garbage(dry_run: bool) -> GarbageReport:
        await trio.lowlevel.checkpoint()
        item = Garbage("checkout", "checkouts/m/c", 4096, "no agent works on it", removed=not dry_run)
        return GarbageReport(dry_run, (item,))

    async def compare_mirror(repair: bool) -> MirrorCompared:
        await trio.lowlevel.checkpoint()
        return MirrorCompared.model_validate({**sample.MIRROR, "repaired": int(repair)})

    given: dict[str, Any] = {
        "store": store,
        "kill_switch": kill_switch,
        "switches": ScriptedSwitches(store),
        "check_task": check_task,
        "diff": diff,
        "resources": resources,
        "terminal": lambda agent_id: None,
        "enforced": ("pids",),
        "watched": ("memory_mb",),
        "tier": "subreaper",
        "collect_garbage": collect_garbage,
        "compare_mirror": compare_mirror,
        "salvages": ScriptedSalvages(),
        "readiness": readiness,
        "allowed_hosts": ("localhost", "127.0.0.1", "::1"),
        "allowed_origins": ("localhost", "127.0.0.1", "https://board.example.com"),
        "yolo": False,
        "api_key": TOKEN,
        "version": "0.1.0",
        "new_id": lambda: str(uuid.uuid4()),
        "clock": utc_now,
        "started": trio.current_time(),
        "limits": limits,
    }
    return Services(**{**given, **over})


class ScriptedSalvages:
    """Keeps the work of one agent, until it is dropped."""

    def __init__(self) -> None:
        self.dropped_by: list[str] = []

    async def list(self) -> SalvageList:
        """Tell it."""
        await trio.lowlevel.checkpoint()
        kept = () if self.dropped_by else (Salvage.model_validate(sample.SALVAGE, extra="ignore"),)
        return SalvageList(salvages=kept, keep_days=30)

    async def show(self, agent_id: str) -> SalvageDetail | None:
        """Tell it with its files."""
        await trio.lowlevel.checkpoint()
        return SalvageDetail.model_validate(sample.SALVAGE_DETAIL) if self._has(agent_id) else None

    async def patch(self, agent_id: str, *, max_bytes: int) -> bytes | None:
        """Return it."""
        await trio.lowlevel.checkpoint()
        return sample.DIFF.encode()[:max_bytes] if self._has(agent_id) else None

    async def drop(self, agent_id: str, *, actor: str) -> SalvageDropped | None:
        """Remember who dropped it."""
        await trio.lowlevel.checkpoint()
        if not self._has(agent_id):
            return None
        self.dropped_by.append(actor)
        return SalvageDropped(agent_id=agent_id, commit=sample.SALVAGE["commit"])

    def _has(self, agent_id: str) -> bool:
        return agent_id == sample.SALVAGE["agentId"] and not self.dropped_by


__all__ = ["TOKEN", "Client", "RawAnswer", "Served", "read_answer", "serve_api", "task"]
