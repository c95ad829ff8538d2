"""What can be asked about work that did not land and is kept, and done about it; and its routes."""

from __future__ import annotations

from quart import Response

from orchestrator.api import problem, sample
from orchestrator.api.access import Scope
from orchestrator.api.route import Call, Query, Returns, Route, answer
from orchestrator.core.salvages import SalvageDetail, SalvageDropped, SalvageList

#: Bytes of a patch that are ever shown.
MAX_PATCH_BYTES = 8 * 1024 * 1024


async def list_salvages(call: Call) -> Response:
    """Tell all that is kept."""
    call.query(Query)
    return answer(await call.services.salvages.list())


async def show(call: Call) -> Response:
    """Tell what is kept of one agent."""
    call.query(Query)
    found = await call.services.salvages.show(call.variables["agentId"])
    if found is None:
        raise _none(call)
    return answer(found)


async def patch(call: Call) -> Response:
    """Show what is kept of one agent as a patch."""
    call.query(Query)
    text = await call.services.salvages.patch(call.variables["agentId"], max_bytes=MAX_PATCH_BYTES)
    if text is None:
        raise _none(call)
    # As text and never as HTML: an agent wrote it.
    return Response(text, content_type="text/plain; charset=utf-8")


async def drop(call: Call) -> Response:
    """Keep it no more."""
    call.query(Query)
    dropped = await call.services.salvages.drop(call.variables["agentId"], actor=call.principal.name)
    if dropped is None:
        raise _none(call)
    return answer(dropped)


def _none(call: Call) -> problem.NoSalvage:
    return problem.NoSalvage(f"nothing is kept of an agent {call.variables['agentId'][:128]}")


ROUTES = [
    Route(
        method="GET", path="/salvage", name="listSalvages", tag="salvage", scope=Scope.READ,
        summary="Work that did not land and is kept, the newest first", run=list_salvages,
        returns={200: Returns(description="All", model=SalvageList, example=sample.SALVAGES)},
    ),
    Route(
        method="GET", path="/salvage/{agentId}", name="getSalvage", tag="salvage", scope=Scope.READ,
        summary="What is kept of an agent: its files, and how to fetch it", run=show,
        errors=(problem.NoSalvage,),
        returns={200: Returns(description="It", model=SalvageDetail, example=sample.SALVAGE_DETAIL)},
    ),
    Route(
        method="GET", path="/salvage/{agentId}/patch", name="getSalvagePatch", tag="salvage",
        scope=Scope.READ, summary="What is kept of an agent, as a patch over its base", run=patch,
        errors=(problem.NoSalvage,),
        returns={200: Returns(description="Text", media_type="text/plain", example=sample.DIFF)},
    ),
    Route(
        method="DELETE", path="/salvage/{agentId}", name="dropSalvage", tag="salvage", scope=Scope.ADMIN,
        summary="Keep it no more; audited", run=drop, errors=(problem.NoSalvage,),
        returns={200: Returns(description="Dropped", model=SalvageDropped, example=sample.SALVAGE_DROPPED)},
    ),
]  # fmt: skip
