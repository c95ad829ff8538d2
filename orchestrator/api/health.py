"""Whether the process answers, and whether it can take work in."""

from __future__ import annotations

from http import HTTPStatus

import trio
from quart import Response

from orchestrator.api.route import Call, Query, answer
from orchestrator.core.answer import Health, Readiness

FAILED = "failed"
#: Seconds that the checks may take; a part that hangs is not ready.
CHECK_S = 5.0


async def health(call: Call) -> Response:
    """Tell that the process answers."""
    await trio.lowlevel.checkpoint()
    call.query(Query)
    services = call.services
    return answer(
        Health(
            uptime=round(trio.current_time() - services.started, 3),
            timestamp=services.clock(),
            version=services.version,
            yolo=services.yolo,
            frozen=services.store.state.control.frozen,
        )
    )


async def ready(call: Call) -> Response:
    """Tell whether work can be taken in; what only degrades does not unready."""
    call.query(Query)
    checks = {"checks": f"{FAILED}: no answer within {CHECK_S:g} s"}
    with trio.move_on_after(CHECK_S):
        checks = await call.services.readiness()
    whole = not any(condition.startswith(FAILED) for condition in checks.values())
    body = Readiness(status="ready" if whole else "not_ready", checks=checks)
    return answer(body, HTTPStatus.OK if whole else HTTPStatus.SERVICE_UNAVAILABLE)
