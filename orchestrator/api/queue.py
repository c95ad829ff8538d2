"""The queue over HTTP: how it stands, its switches and its settings, by the names of both systems."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, StringConstraints
from quart import Response

from orchestrator import errors as e
from orchestrator.api import intake, problem, sample, tasks, view
from orchestrator.api.access import Scope
from orchestrator.api.agents import Limit
from orchestrator.api.route import BODY, Call, Query, Returns, Route, answer, validate_body
from orchestrator.core.answer import Cancelled, Spawned
from orchestrator.core.commands import ChangeQueueSettings, ClearQueue, PauseQueue, ResumeQueue
from orchestrator.core.policy import MAX_CONCURRENT
from orchestrator.core.queue_answer import QueueCleared, QueueListing, QueueOptions, QueueStats, QueueSwitch
from orchestrator.core.spec import Wire
from orchestrator.journal.queue_rows import count_ended, ended_rows, open_rows
from orchestrator.journal.store import AuditEntry

Word = Annotated[str, StringConstraints(max_length=16)]


class QueueSetting(Wire):
    """One setting of the queue; its value as JSON, or as the text that the table holds."""

    key: Literal["paused", "stop_on_failure", "max_concurrent"]
    value: Annotated[StrictBool | StrictInt | Word, Field()]


async def stats(call: Call) -> Response:
    """Tell how the queue stands."""
    call.query(Query)
    store = call.services.store
    counts = await store.counts()
    return answer(view.queue_stats(counts, store.state.control))


async def pause(call: Call) -> Response:
    """Take nothing more from the queue; running agents go on, and a restart changes nothing."""
    call.query(Query)
    await _switch(call, paused=True)
    return answer(QueueSwitch(paused=call.services.store.state.control.paused))


async def resume(call: Call) -> Response:
    """Take work from the queue again."""
    call.query(Query)
    await _switch(call, paused=False)
    return answer(QueueSwitch(paused=call.services.store.state.control.paused))


async def _switch(call: Call, *, paused: bool) -> None:
    command = PauseQueue() if paused else ResumeQueue()
    words = ("queue.pause", "paused") if paused else ("queue.resume", "resumed")
    entry = AuditEntry(call.principal.name, words[0], "queue", words[1])
    await call.services.store.submit(command, audit=entry)


async def settings(call: Call) -> Response:
    """Tell the queue's settings."""
    call.query(Query)
    return answer(view.queue_options(call.services.store.state.control))


async def change_setting(call: Call) -> Response:
    """Change one setting; in force, and on the disk, when it is answered."""
    call.query(Query)
    asked = validate_body(QueueSetting, call.json())
    store = call.services.store
    if asked.key == "paused":
        await _switch(call, paused=_truth(asked.value))
    else:
        stops = asked.key == "stop_on_failure"
        command = (
            ChangeQueueSettings(stop_on_failure=_truth(asked.value))
            if stops
            else ChangeQueueSettings(max_concurrent=_number(asked.value))
        )
        entry = AuditEntry(call.principal.name, "queue.settings", asked.key, "changed", str(asked.value))
        await store.submit(command, audit=entry)
    return answer(view.queue_options(store.state.control))


class ItemFilter(Query):
    """How many items to list of those that are open, and of those that ended."""

    limit: Limit = 100


async def listing(call: Call) -> Response:
    """Tell who works, who waits and who has ended, with the settings and the counts."""
    limit, store = call.query(ItemFilter).limit, call.services.store
    control = store.state.control
    opened, ended = await store.read(lambda c: (open_rows(c, limit), ended_rows(c, control.cleared, limit)))
    return answer(
        QueueListing(
            items=tuple(view.queue_item(row, store.queue_position(row.agent_id)) for row in opened),
            completed=tuple(view.queue_item(row, None) for row in ended),
            settings=view.queue_options(control),
            stats=view.queue_stats(await store.counts(), control),
        )
    )


async def clear(call: Call) -> Response:
    """List no more what has ended; the tasks and their events stay."""
    call.query(Query)
    store, before = call.services.store, call.services.store.state.control.cleared
    entry = AuditEntry(call.principal.name, "queue.clear", "queue", "cleared")
    await store.submit(ClearQueue(), audit=entry)
    now = store.state.control.cleared
    return answer(QueueCleared(cleared=await store.read(lambda c: count_ended(c, before, now))))


def _truth(value: bool | int | str) -> bool:
    word = str(value).lower()
    if isinstance(value, bool) or word in {"true", "false"}:
        return word == "true"
    raise problem.Invalid([problem.FieldError("value", "must be true or false")])


def _number(value: bool | int | str) -> int:
    digits = "" if isinstance(value, bool) else str(value)
    if digits.isascii() and digits.isdigit() and 1 <= int(digits) <= MAX_CONCURRENT:
        return int(digits)
    raise problem.Invalid([problem.FieldError("value", f"must be 1 to {MAX_CONCURRENT}")])


ROUTES = [
    Route(
        method="GET", path="/queue/stats", name="getQueue", tag="queue", scope=Scope.READ,
        summary="How the queue stands", run=stats,
        returns={200: Returns(description="Counts", model=QueueStats, example=sample.STATS)},
    ),
    Route(
        method="POST", path="/queue/pause", name="pauseQueue", tag="queue", scope=Scope.OPERATE,
        summary="Take nothing more from the queue; survives a restart", run=pause,
        returns={200: Returns(description="Paused", model=QueueSwitch, example={"paused": True})},
    ),
    Route(
        method="POST", path="/queue/resume", name="resumeQueue", tag="queue", scope=Scope.OPERATE,
        summary="Take work from the queue again", run=resume, errors=(e.RoomKept,),
        returns={200: Returns(description="Not paused", model=QueueSwitch, example={"paused": False})},
    ),
    Route(
        method="GET", path="/api/queue", name="listQueue", tag="queue", scope=Scope.READ, query=ItemFilter,
        summary="Who works, who waits and who has ended, with the settings and the counts", run=listing,
        returns={200: Returns(description="The queue", model=QueueListing, example=sample.QUEUE)},
    ),
    Route(
        method="POST", path="/api/queue/add/{taskId}", name="addToQueue", tag="queue", scope=Scope.OPERATE,
        summary="Queue a known task that has no live attempt, by a new one", run=intake.add, keyed=True,
        errors=(e.TaskUnknown, *intake.INTAKE),
        returns={201: Returns(description="Accepted, and durable", model=Spawned, example=sample.SUBMITTED)},
    ),
    Route(
        method="DELETE", path="/api/queue/{taskId}", name="removeFromQueue", tag="queue", scope=Scope.OPERATE,
        summary="Cancel a task that waits; 409 where an agent works on it", run=tasks.remove,
        errors=(e.TaskUnknown, e.AlreadyEnded, e.CommandRefused),
        returns={200: Returns(description="Cancelled", model=Cancelled, example=sample.CANCELLED)},
    ),
    Route(
        method="POST", path="/api/queue/clear", name="clearQueue", tag="queue", scope=Scope.OPERATE,
        summary="List no more what has ended; tasks and events stay", run=clear, errors=(e.RoomKept,),
        returns={200: Returns(description="Cleared", model=QueueCleared, example={"cleared": 12})},
    ),
    Route(
        method="GET", path="/api/queue/settings", name="getQueueSettings", tag="queue", scope=Scope.READ,
        summary="The queue's settings", run=settings,
        returns={200: Returns(description="All", model=QueueOptions, example=sample.QUEUE_OPTIONS)},
    ),
    Route(
        method="POST", path="/api/queue/settings", name="setQueueSetting", tag="queue", scope=Scope.OPERATE,
        summary="Change a setting of the queue; kept over a restart", run=change_setting, body=QueueSetting,
        body_example={"key": "max_concurrent", "value": 4}, errors=(*BODY, e.RoomKept),
        returns={200: Returns(description="All", model=QueueOptions, example=sample.QUEUE_OPTIONS)},
    ),
]  # fmt: skip
