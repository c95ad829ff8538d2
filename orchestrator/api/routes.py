"""Every route of the API, in one table: the application and openapi.json are made from it."""

from __future__ import annotations

import json
from dataclasses import replace

import trio
from quart import Response

from orchestrator import errors as e
from orchestrator.api import (
    agents,
    control,
    events,
    garbage,
    health,
    intake,
    logs,
    messages,
    pages,
    problem,
    sample,
    tasks,
    terminal,
)
from orchestrator.api.access import Scope
from orchestrator.api.feed import Wanted
from orchestrator.api.intake import INTAKE
from orchestrator.api.mirror import ROUTES as MIRROR
from orchestrator.api.openapi import document
from orchestrator.api.queue import ROUTES as QUEUE
from orchestrator.api.route import BODY, Call, Query, Returns, Route, json_bytes
from orchestrator.api.salvages import ROUTES as SALVAGE
from orchestrator.core import answer as a
from orchestrator.core.conversation import Said, Saying, Transcript
from orchestrator.core.garbage import GarbageFound
from orchestrator.core.queue_answer import Requeued
from orchestrator.core.spec import TaskSpec

READ, OPERATE, ADMIN = Scope.READ, Scope.OPERATE, Scope.ADMIN


def make_routes(version: str) -> list[Route]:
    """Return all routes, the document about them among them."""
    routes = [*HEALTH, *AGENTS, *STREAMS, *TASKS, *QUEUE, *CONTROL, *SALVAGE, *HOST, *MIRROR, *PAGES]
    described: list[bytes] = []

    async def openapi(call: Call) -> Response:
        """Answer with the document."""
        await trio.lowlevel.checkpoint()
        call.query(Query)
        return json_bytes(described[0])

    routes = [replace(route, run=openapi) if route.name == "getOpenapi" else route for route in routes]
    described.append(json.dumps(document(routes, version)).encode())
    return routes


def _ok(description: str, model: type[a.Answer], example: object) -> dict[int, Returns]:
    return {200: Returns(description=description, model=model, example=example)}


HEALTH = [
    Route(
        method="GET", path="/health", also=("/api/health",), name="getHealth", tag="health", scope=None,
        summary="The process answers", run=health.health,
        returns=_ok("It is alive", a.Health, sample.HEALTH),
    ),
    Route(
        method="GET", path="/health/ready", name="getReadiness", tag="health", scope=None,
        summary="Work can be taken in", run=health.ready,
        returns={
            200: Returns(description="Ready", model=a.Readiness, example=sample.READY),
            503: Returns(
                description="Not ready; the check that failed says why", model=a.Readiness,
                example={"status": "not_ready", "checks": {"disk": "failed: only 12 MB are free"}},
            ),
        },
    ),
]  # fmt: skip

AGENTS = [
    Route(
        method="POST", path="/agents/spawn", name="spawnAgent", tag="agents", scope=OPERATE,
        summary="Hand a task over to a new agent; over capacity it waits in the queue", run=intake.spawn,
        body=TaskSpec, body_example=sample.TASK, keyed=True, errors=(*BODY, *INTAKE),
        returns={201: Returns(description="Accepted, and durable", model=a.Spawned, example=sample.SPAWNED)},
    ),
    Route(
        method="GET", path="/agents", name="listAgents", tag="agents", scope=READ,
        summary="Agents, newest first", run=agents.list_agents, query=agents.AgentFilter,
        returns=_ok("A page", a.AgentPage, {"agents": [sample.AGENT], "next": None}),
    ),
    Route(
        method="GET", path="/agents/{agentId}/status", name="getAgent", tag="agents", scope=READ,
        summary="Everything about an agent", run=agents.status, errors=(e.AgentUnknown,),
        returns=_ok("The agent", a.AgentDetail, sample.STATUS),
    ),
    Route(
        method="POST", path="/agents/{agentId}/kill", name="killAgent", tag="agents", scope=OPERATE,
        summary="End an agent; answers once its process tree is gone", run=agents.kill,
        errors=(e.AgentUnknown, e.AlreadyEnded),
        returns=_ok("The proof", a.Killed, sample.KILLED),
    ),
    Route(
        method="POST", path="/agents/kill-all", name="killAll", tag="agents", scope=ADMIN,
        summary="End every live agent", run=agents.kill_all, query=agents.KillAllQuery,
        returns=_ok("The proof", a.KilledAll, sample.KILLED_ALL),
    ),
    Route(
        method="POST", path="/agents/{agentId}/retry", name="retryAgent", tag="agents", scope=OPERATE,
        summary="A new agent for an ended agent's task, with the same role and context", run=intake.retry,
        keyed=True, errors=(e.AgentUnknown, e.NotEnded, *INTAKE),
        returns={201: Returns(description="Accepted, and durable", model=a.Spawned, example=sample.SPAWNED)},
    ),
    Route(
        method="POST", path="/agents/{agentId}/message", name="messageAgent", tag="agents", scope=OPERATE,
        summary="Say something to a live agent: it is told by a further turn, or sooner where it listens",
        run=messages.say, body=Saying, body_example=sample.SAYING, keyed=True,
        errors=(
            *BODY, e.AgentUnknown, e.AlreadyEnded, e.MailboxFull, e.RoomKept, problem.KeyInFlight,
            problem.KeyReused,
        ),
        returns={202: Returns(description="Durable; it waits", model=Said, example=sample.SAID)},
    ),
    Route(
        method="GET", path="/agents/{agentId}/transcript", name="getTranscript", tag="agents", scope=READ,
        summary="The turns of an agent, oldest first, with what was said in them as far as it was kept",
        run=messages.transcript, query=messages.TranscriptQuery, errors=(e.AgentUnknown,),
        returns=_ok("A page", Transcript, sample.TRANSCRIPT),
    ),
    Route(
        method="GET", path="/agents/{agentId}/diff", name="getDiff", tag="agents", scope=READ,
        summary="The candidate's diff", run=agents.diff, errors=(e.AgentUnknown, problem.NoDiff),
        returns={200: Returns(description="Text", media_type="text/plain", example=sample.DIFF)},
    ),
    Route(
        method="GET", path="/agents/{agentId}/gates", name="getGates", tag="agents", scope=READ,
        summary="What the gates said, with the evidence", run=agents.gates, errors=(e.AgentUnknown,),
        returns=_ok("The verdicts", a.Verdicts, sample.VERDICTS),
    ),
]  # fmt: skip

STREAMS = [
    Route(
        method="GET", path="/agents/{agentId}/logs", name="getLogs", tag="streams", scope=READ,
        summary="What the agent wrote, line by line (SSE where Accept asks for it)", run=logs.logs,
        query=logs.LogQuery, errors=(e.AgentUnknown,),
        returns={
            200: Returns(
                description="One JSON object a line", model=a.LogLine, media_type=logs.NDJSON,
                example=sample.LOG_LINE,
            )
        },
    ),
    Route(
        method="GET", path="/events", also=("/agents/events",), name="streamEvents", tag="streams",
        scope=READ, summary="Events by SSE: after Last-Event-ID or `after`, then as they happen",
        run=events.stream, query=Wanted,
        returns={
            200: Returns(
                description="Frames of id, event and data; `event: gap` says what a slow reader missed",
                model=a.EventBody, media_type=events.SSE, example=sample.EVENT,
            )
        },
    ),
    Route(
        method="GET", path="/ws", also=("/agents/ws",), name="socketEvents", tag="streams", scope=READ,
        summary='Events by WebSocket; {"subscribe": {"after": seq, "types": [...]}} asks for others',
        run=events.stream, query=Wanted, socket=events.socket,
        returns={101: Returns(description="Each message is an event, or a gap")},
    ),
    Route(
        method="GET", path="/agents/{agentId}/terminal", name="openTerminal", tag="streams", scope=OPERATE,
        summary='An agent\'s terminal by WebSocket: bytes both ways; {"resize": [columns, rows]} as text',
        run=terminal.refuse_http, query=terminal.TerminalQuery, socket=terminal.socket,
        errors=(e.AgentUnknown, e.AlreadyEnded, problem.NoTerminal),
        returns={101: Returns(description="Binary messages are what is shown, and what is typed")},
    ),
]  # fmt: skip

TASKS = [
    Route(
        method="POST", path="/tasks", name="submitTask", tag="tasks", scope=OPERATE,
        summary="Hand a task over to the queue", run=intake.submit, body=TaskSpec, body_example=sample.TASK,
        keyed=True, errors=(*BODY, *INTAKE),
        returns={
            201: Returns(description="Accepted, and durable", model=a.Spawned, example=sample.SUBMITTED)
        },
    ),
    Route(
        method="POST", path="/tasks/{taskId}/requeue", name="requeueTask", tag="tasks", scope=OPERATE,
        summary="Queue a task that failed or was cancelled once more, by a new attempt", run=intake.requeue,
        keyed=True, errors=(e.TaskUnknown, e.AlreadyEnded, *INTAKE),
        returns={
            201: Returns(description="Accepted, and durable", model=a.Spawned, example=sample.SUBMITTED)
        },
    ),
    Route(
        method="POST", path="/tasks/requeue", name="requeueTasks", tag="tasks", scope=OPERATE,
        summary="Queue those that failed and pass a filter once more; repeated, it finds those that are left",
        run=intake.requeue_all, body=intake.RequeueFilter, body_example={"reason": "timeout", "limit": 100},
        errors=(*BODY, e.QueueFull, e.Frozen, e.Draining, e.DiskFull),
        returns=_ok("What was queued, and what was not", Requeued, sample.REQUEUED),
    ),
    Route(
        method="GET", path="/tasks", name="listTasks", tag="tasks", scope=READ,
        summary="Tasks, newest first", run=tasks.list_tasks, query=tasks.TaskFilter,
        returns=_ok("A page", a.TaskPage, {"tasks": [sample.TASK_SUMMARY], "next": None}),
    ),
    Route(
        method="GET", path="/tasks/{taskId}", name="getTask", tag="tasks", scope=READ,
        summary="A task with its attempts and events", run=tasks.show, errors=(e.TaskUnknown,),
        returns=_ok("The task", a.TaskDetail, sample.TASK_DETAIL),
    ),
    Route(
        method="DELETE", path="/tasks/{taskId}", name="cancelTask", tag="tasks", scope=OPERATE,
        summary="Cancel a task; its agent is killed, with proof", run=tasks.cancel,
        errors=(e.TaskUnknown, e.AlreadyEnded),
        returns=_ok("Cancelled", a.Cancelled, sample.CANCELLED),
    ),
]  # fmt: skip

CONTROL = [
    Route(
        method="POST", path="/freeze", name="freeze", tag="control", scope=ADMIN,
        summary="Stop every process and admit nothing until thawed; survives a restart",
        run=control.freeze, errors=(e.FreezeNotLatched,),
        returns=_ok("Every process stands still", a.ControlSwitch, sample.FROZEN),
    ),
    Route(
        method="POST", path="/thaw", name="thaw", tag="control", scope=ADMIN,
        summary="Let everything go on where it stood; where nothing is frozen, end a drain",
        run=control.thaw, errors=(e.RoomKept,),
        returns=_ok("It goes on", a.ControlSwitch, {**sample.FROZEN, "frozen": False}),
    ),
    Route(
        method="POST", path="/drain", name="drain", tag="control", scope=ADMIN,
        summary="Admit nothing and let live agents end; until a thaw or the next start",
        run=control.drain,
        returns=_ok("Draining", a.ControlSwitch, {**sample.FROZEN, "frozen": False, "draining": True}),
    ),
]  # fmt: skip

HOST = [
    Route(
        method="POST", path="/gc", name="collectGarbage", tag="host", scope=ADMIN,
        summary="Remove what nobody needs: tells each thing with its size and why; `dryRun` only tells",
        run=garbage.collect, query=garbage.GarbageQuery,
        returns=_ok("What was found, and what became of it", GarbageFound, sample.GARBAGE),
    ),
]  # fmt: skip

PAGES = [
    Route(
        method="GET", path="/openapi.json", name="getOpenapi", tag="pages", scope=READ,
        summary="This document", run=pages.show,
        returns={200: Returns(description="OpenAPI 3.1", media_type="application/json")},
    ),
    Route(
        method="GET", path="/docs", name="getDocs", tag="pages", scope=READ,
        summary="This document as a page, without a network", run=pages.show,
        returns={200: Returns(description="HTML", media_type="text/html")},
    ),
    Route(
        method="GET", path="/", name="getPage", tag="pages", scope=READ,
        summary="How the orchestrator does", run=pages.show,
        returns={200: Returns(description="HTML", media_type="text/html")},
    ),
]  # fmt: skip
