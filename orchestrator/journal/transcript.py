"""What was said to an agent and by it, turn by turn, out of the journal and the words kept beside it.

Invariant: a page is bounded, in turns and in bytes, and the next begins where it ended. Asked by the API,
through `Archive.read`.
"""

from __future__ import annotations

import json

import apsw
from pydantic import JsonValue

from orchestrator.core import events as e
from orchestrator.core.answer import Answer
from orchestrator.core.conversation import TranscriptTurn
from orchestrator.core.usage import NO_USAGE
from orchestrator.journal.encoding import read_event

#: Bytes of words after which a page is full; a turn that is larger alone is a page of its own.
MAX_PAGE_BYTES = 4 * 1024 * 1024

_COLUMNS = "e.seq, e.id, e.type, e.time, e.agent_id, e.task_id, e.data, e.hash"
_SPOKEN = (
    f"SELECT {_COLUMNS}, m.content FROM ("  # noqa: S608 - ours
    " SELECT seq FROM turns WHERE agent_id = :agent AND seq > :after"
    " UNION SELECT seq FROM messages WHERE agent_id = :agent AND seq > :after"
    " ORDER BY seq LIMIT :limit) spoken"
    " JOIN events e ON e.seq = spoken.seq LEFT JOIN messages m ON m.seq = spoken.seq ORDER BY e.seq"
)


class _Kept(Answer):
    content: JsonValue


def read_transcript(
    connection: apsw.Connection, *, agent_id: str, after: int, limit: int
) -> tuple[tuple[TranscriptTurn, ...], str | None]:
    """Return a page of turns after an event, oldest first, and the cursor of the next page."""
    turns: list[TranscriptTurn] = []
    size = 0
    rows = connection.execute(_SPOKEN, {"agent": agent_id, "after": after, "limit": limit + 1})
    for *event, content in rows:
        if turns and (len(turns) == limit or size + len(content or "") > MAX_PAGE_BYTES):
            return tuple(turns), str(turns[-1].seq)
        turns.append(_turn(read_event(tuple(event)), content))
        size += len(content or "") + len(turns[-1].text)
    return tuple(turns), None


def _turn(recorded: e.Recorded, content: str | None) -> TranscriptTurn:
    seq, time, said = recorded.seq, recorded.time, _json(content)
    match recorded.event:
        case e.AgentTurn() as turn:
            return TranscriptTurn(
                seq=seq,
                time=time,
                kind="turn",
                turn=turn.turn,
                prompt=turn.prompt or turn.turn,
                model=turn.model,
                stop_reason=turn.stop_reason,
                exit_code=turn.exit_code,
                duration_ms=turn.duration_ms,
                usage=turn.usage or NO_USAGE,
                text=turn.text,
                content=said,
            )
        case e.AgentUsage(usage=usage):
            return TranscriptTurn(seq=seq, time=time, kind="tools", usage=usage, content=said)
    return TranscriptTurn(seq=seq, time=time, kind="tools", content=said)


def _json(content: str | None) -> JsonValue:
    """Return the words as the JSON that they are; what is none that can be passed on is a string."""
    if content is None:
        return None
    try:
        return _Kept(content=json.loads(content)).content
    except (ValueError, RecursionError):
        return content
