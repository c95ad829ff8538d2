"""Speaking with an agent: say something to it, and read what was said.

The invariant: what is answered 202 is durable (J2), and one key says it once (J10).
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus

from quart import Response

from orchestrator.api.agents import Cursor, Limit, find
from orchestrator.api.idempotency import Key, replayed
from orchestrator.api.route import Call, Query, answer, validate_body
from orchestrator.core.commands import TellAgent
from orchestrator.core.conversation import Said, Saying, Transcript
from orchestrator.core.events import AgentMessage, Recorded
from orchestrator.core.model import AgentId
from orchestrator.errors import AlreadyEnded
from orchestrator.journal.store import AuditEntry, Receipt
from orchestrator.journal.transcript import read_transcript


class TranscriptQuery(Query):
    """Which page of the transcript."""

    limit: Limit = 100
    after: Cursor | None = None


async def say(call: Call) -> Response:
    """Say something to a live agent: a further turn, as soon as it can listen."""
    call.query(Query)
    body = call.json()
    saying = validate_body(Saying, body)
    with call.keys.hold(call, body) as key:
        repeated = await call.keys.replay(call, key)
        if repeated is not None:
            return replayed(repeated, HTTPStatus.ACCEPTED)
        return await _say(call, saying, key)


async def _say(call: Call, saying: Saying, key: Key | None) -> Response:
    store, sender = call.services.store, call.principal.name
    agent = await find(call)
    if agent.status.ended:
        raise AlreadyEnded(f"agent {agent.id} is {agent.status} already")

    def receipt(recorded: list[Recorded]) -> Receipt:
        assert key is not None  # noqa: S101 - for the type checker: only given where there is a key
        said = _said(agent.id, recorded).model_dump_json()
        return Receipt(key.name, key.fingerprint, HTTPStatus.ACCEPTED, said, call.services.clock())

    recorded = await store.submit(
        TellAgent(agent.id, saying.text, sender),
        receipt=receipt if key else None,
        audit=AuditEntry(sender, "agent.message", agent.id, "accepted", f"{len(saying.text)} characters"),
    )
    return answer(_said(agent.id, recorded), HTTPStatus.ACCEPTED)


def _said(agent_id: AgentId, recorded: list[Recorded]) -> Said:
    numbers = [each.event.number for each in recorded if isinstance(each.event, AgentMessage)]
    return Said(agent_id=agent_id, message=numbers[0])


async def transcript(call: Call) -> Response:
    """Show the turns of an agent, and what was said in them, page by page."""
    asked = call.query(TranscriptQuery)
    agent = await find(call)
    page = partial(
        read_transcript,
        agent_id=agent.id,
        after=int(asked.after or 0),
        limit=asked.limit,
    )
    turns, following = await call.services.store.read(page)
    return answer(Transcript(agent_id=agent.id, turns=turns, next=following))
