"""The operator's switches over the whole: freeze, thaw, drain.

Like a kill they take no body, and no rate limit stands in their way.
"""

from __future__ import annotations

from collections.abc import Awaitable

from quart import Response

from orchestrator.api.route import Call, Query, answer
from orchestrator.core.answer import ControlSwitch
from orchestrator.core.reports import SwitchReport


async def freeze(call: Call) -> Response:
    """Stop every process and admit nothing, until thawed."""
    call.query(Query)
    return await _answered(call.services.switches.freeze(actor=call.principal.name))


async def thaw(call: Call) -> Response:
    """Let everything go on where it stood; where nothing is frozen, end a drain."""
    call.query(Query)
    return await _answered(call.services.switches.thaw(actor=call.principal.name))


async def drain(call: Call) -> Response:
    """Admit nothing, and let what runs end."""
    call.query(Query)
    return await _answered(call.services.switches.drain(actor=call.principal.name))


async def _answered(switching: Awaitable[SwitchReport]) -> Response:
    report = await switching
    return answer(
        ControlSwitch(
            frozen=report.frozen,
            draining=report.draining,
            agents=report.agents,
            processes=report.processes,
            starting=report.starting,
            elapsed_ms=report.elapsed_ms,
        )
    )
