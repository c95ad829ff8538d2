"""The facts about the whole: the queue, the operator's switches, and the orchestrator's own life.

Import them from `events`.
"""

from __future__ import annotations

from pydantic import Field

from orchestrator.core.event import Event
from orchestrator.core.moment import Moment


class QueuePaused(Event):
    """Nothing more is taken from the queue."""

    name = "queue.paused"


class QueueResumed(Event):
    """Work is taken from the queue again."""

    name = "queue.resumed"


class QueueSettings(Event):
    """The queue's settings changed."""

    name = "queue.settings"
    max_concurrent: int | None = Field(default=None, ge=1)
    stop_on_failure: bool | None = None
    #: What ended up to then is listed no more.
    cleared: Moment | None = None


class ControlFrozen(Event):
    """Every process tree stands still and nothing is admitted."""

    name = "control.frozen"


class ControlThawed(Event):
    """What was frozen goes on where it stood; where nothing was, a drain has ended."""

    name = "control.thawed"


class ControlDraining(Event):
    """Nothing is admitted; live agents run to their end."""

    name = "control.draining"


class SystemStarted(Event):
    """The orchestrator is up."""

    name = "system.started"
    version: str
    sandbox: str
    max_agents: int
    queue_concurrency: int
    max_queued: int


class SystemRecovered(Event):
    """What the last run left behind has been dealt with; or, with `part`, that part is there again."""

    name = "system.recovered"
    part: str | None = None
    resumed: int = 0
    ended: int = 0
    reaped: int = 0


class SystemDegraded(Event):
    """A part that is not needed for truth is away, or the host is short of something (`core.watermark`)."""

    name = "system.degraded"
    part: str
    detail: str


class SystemStopping(Event):
    """The orchestrator is going down in good order."""

    name = "system.stopping"
