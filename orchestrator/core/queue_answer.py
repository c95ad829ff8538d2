"""What the API answers about the queue: as `answer`, whose names are those of agents and tasks."""

from __future__ import annotations

from pydantic import ConfigDict

from orchestrator.core.answer import Answer, Spawned
from orchestrator.core.moment import Moment


class QueueStats(Answer):
    """The queue at a glance."""

    pending: int
    active: int
    completed: int
    failed: int
    delayed: int
    paused: bool
    concurrency: int


class QueueOptions(Answer):
    """The queue's settings, by the names that they have everywhere."""

    model_config = ConfigDict(alias_generator=str)

    paused: bool
    #: Whether a task that fails for good pauses the queue.
    stop_on_failure: bool
    max_concurrent: int


class QueueItem(Answer):
    """A task in the queue; each attempt is an item of its own."""

    id: int
    task_id: str
    agent_id: str
    #: Its place by priority and age, 1 for the first; null where it does not wait.
    position: int | None
    #: `queued`, `processing`, `completed` or `failed`, which includes cancelled.
    status: str
    priority: int
    queued_at: Moment
    completed_at: Moment | None = None


class QueueListing(Answer):
    """The queue: who works and who waits, who has ended, the settings, and how many there are at all."""

    items: tuple[QueueItem, ...]
    completed: tuple[QueueItem, ...]
    settings: QueueOptions
    stats: QueueStats


class QueueCleared(Answer):
    """How many ended items are listed no more."""

    cleared: int


class QueueSwitch(Answer):
    """Whether the queue is paused now."""

    paused: bool


class Refused(Answer):
    """What was not queued once more, and why."""

    task_id: str
    code: str
    detail: str


class Requeued(Answer):
    """What was queued once more; `more` says that others pass the filter, too."""

    requeued: tuple[Spawned, ...]
    refused: tuple[Refused, ...] = ()
    more: bool = False
