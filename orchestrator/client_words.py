"""What the client writes into its requests, and reads out of the answers. Called by `client`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import quote

from orchestrator.client_stream import Json, Query, Unreachable
from orchestrator.core.spec import TaskSpec


def object_of(content: bytes) -> Json:
    """Return the object that an answer is; raises `Unreachable` where it is none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unreachable("what answers is no orchestrator: its answer is no JSON") from error
    if not isinstance(value, dict):
        raise Unreachable("what answers is no orchestrator: its answer is no JSON object")
    return value


def body_of(spec: TaskSpec | Json) -> bytes:
    """Return a task as the body of a request."""
    if isinstance(spec, TaskSpec):
        return spec.model_dump_json(exclude_unset=True).encode()
    return json.dumps(spec).encode()


def wanted_events(
    after: int | None, types: Iterable[str], agent_id: str | None, task_id: str | None
) -> Query:
    """Return which events a stream is asked for."""
    return {"after": after, "types": ",".join(types) or None, "agentId": agent_id, "taskId": task_id}


def path_of(agent_id: str, what: str) -> str:
    """Return the path of something about an agent."""
    return f"/agents/{quote(agent_id, safe='')}/{what}"


def salvage_of(agent_id: str | None, what: str = "") -> str:
    """Return the path of what is kept, all of it or an agent's, or of something about that."""
    return "/salvage" if agent_id is None else f"/salvage/{quote(agent_id, safe='')}{what}"
