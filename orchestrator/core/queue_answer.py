"""What the API answers about the queue: as `answer`, whose names are those of agents and tasks."""

from __future__ import annotations

from pydantic import ConfigDict

from orchestrator.core.answer import Answer, Spawned


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
