"""What may still be written where the room that is left is kept for ends (`room.Room.scarce`).

The rule: what stops goes on to be written, and what lets go on is refused. Of switches that stop, each
changes something once at most, so that nothing here can be repeated until the room is gone. What changes
nothing leaves no entry. Called by `store`.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core import commands as c
from orchestrator.core.events import Event
from orchestrator.errors import RoomKept

#: Whatever would have more written after it.
_LETS_GO_ON = (c.SubmitTask, c.TellAgent, c.ResumeQueue, c.ChangeQueueSettings, c.ClearQueue, c.Thaw)


def must_be_written(command: c.Command, events: Sequence[Event]) -> bool:
    """Return whether the command changes anything; raises `RoomKept` for one that has to wait for room."""
    if events and isinstance(command, _LETS_GO_ON):
        raise RoomKept
    return bool(events)
