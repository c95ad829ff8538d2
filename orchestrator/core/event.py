"""What every event is: a frozen value with a name on the wire, about a task, an agent or the whole.

An event never changes once it has been released; a new meaning is a new event or a new optional field. `name`
is the promise made to clients; the fields other than the two ids become `data`, in camelCase. Subclassed by
`events`, `judgement` and `switches`; whoever uses events imports them from `events`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, JsonValue

from orchestrator.core.model import AgentId, TaskId
from orchestrator.core.spec import Wire

#: Event class by its name on the wire.
EVENTS: dict[str, type[Event]] = {}


class Event(Wire):
    """Something that happened."""

    #: Lenient on purpose: what was journaled by an older version with more fields must still be read.
    model_config = ConfigDict(extra="ignore", strict=False)

    name: ClassVar[str]
    task_id: TaskId | None = None
    agent_id: AgentId | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - pydantic's own signature
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            EVENTS[cls.name] = cls

    def payload(self) -> dict[str, JsonValue]:
        """Return the event's own fields as JSON values; unset ones are left out."""
        return self.model_dump(mode="json", exclude={"task_id", "agent_id"}, exclude_none=True)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the event of its JSON; fields of another version are ignored, in values inside too."""
        return cls.model_validate_json(text, strict=False, extra="ignore")


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as the journal holds it: numbered without gaps, timed, and chained to its predecessor."""

    seq: int
    id: str
    time: datetime
    event: Event
    #: SHA-256 over the predecessor's hash and this event's canonical bytes, in hex.
    hash: str


class TaskEvent(Event):
    """A fact about a task, and mostly about the agent that works on it."""

    task_id: TaskId


class AgentEvent(Event):
    """A fact about an agent."""

    task_id: TaskId
    agent_id: AgentId
