"""What can be asked about the mirror in Valkey, and done about it; and its route."""

from __future__ import annotations

from quart import Response

from orchestrator.api import sample
from orchestrator.api.access import Scope
from orchestrator.api.route import Call, Query, Returns, Route, Switch, answer
from orchestrator.core.mirror import MirrorCompared, MirrorUnavailable
from orchestrator.journal.store import AuditEntry


class MirrorQuery(Query):
    """Whether to put right what differs."""

    repair: Switch = False


async def verify(call: Call) -> Response:
    """Compare Valkey with the journal, key by key, and repair it where asked."""
    asked = call.query(MirrorQuery)
    found = await call.services.compare_mirror(asked.repair)
    if asked.repair:
        outcome = f"{found.repaired} of {found.differing} repaired"
        entry = AuditEntry(call.principal.name, "mirror.repair", "*", outcome)
        await call.services.store.audit(entry, changed=bool(found.repaired))
    return answer(found)


ROUTES = [
    Route(
        method="POST", path="/mirror/verify", name="verifyMirror", tag="host", scope=Scope.ADMIN,
        summary="Compare the mirror in Valkey with the journal; `repair` puts right what differs",
        run=verify, query=MirrorQuery, errors=(MirrorUnavailable,),
        returns={200: Returns(description="How it stood", model=MirrorCompared, example=sample.MIRROR)},
    ),
]  # fmt: skip
