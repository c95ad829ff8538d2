"""Tasks handed over to orchestrators that answer in every way: neither lost, nor handed over in vain."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from orchestrator.client import open_client
from orchestrator.coordinator.dispatcher import Dispatcher, PreCheck
from orchestrator.coordinator.ledger import Dispatch, State
from orchestrator.core.spec import TaskSpec
from tests.coordinator.test_ledger import opened, spec_of
from tests.kit import coordinator as kit
from tests.kit.coordinator import answer, running


class NoCheck(PreCheck):
    """Finds nothing wrong with any task."""

    def __init__(self) -> None:
        pass

    def at_once(self, spec: TaskSpec) -> None:
        pass

    async def whole(self, spec: TaskSpec) -> None:
        await trio.lowlevel.checkpoint()


async def tried_once(home: Path, manner: kit.Manner) -> Dispatch:
    """Return what has become of a task when an orchestrator has been tried once."""
    with running(manner) as far:
        async with opened(home) as ledger, trio.open_nursery() as nursery:
            written, settle, note = trio.Event(), ledger.settle, ledger.note_failure

            async def settled(task_id: str, state: State, **more: str | None) -> None:
                await settle(task_id, state, **more)
                written.set()

            async def noted(task_id: str, error: str) -> None:
                await note(task_id, error)
                written.set()

            ledger.settle, ledger.note_failure = settled, noted  # type: ignore[method-assign,assignment]
            dispatcher = Dispatcher(ledger, NoCheck(), lambda: open_client(far.url), chance=lambda: 1.0)
            await dispatcher.submit(spec_of("T"))
            nursery.start_soon(dispatcher.run)
            with trio.fail_after(30):
                await written.wait()
            nursery.cancel_scope.cancel()
        async with opened(home) as ledger:
            return await ledger.find("T")


def refusal(status: int, code: str) -> kit.Manner:
    """Return the manner of an orchestrator that refuses a task."""
    return answer(
        {"status": status, "code": code, "detail": "why", "title": "t", "type": "t"}, f"{status} No"
    )


PASSES = {
    "an answer that is on its way": refusal(409, "idempotency_in_flight"),
    "frozen": refusal(503, "frozen"),
    "too many": refusal(429, "rate_limited"),
    "another door": refusal(401, "unauthorized"),
    "a proxy": answer(b"", "502 Bad Gateway"),
    "no agent": answer({}, "200 OK"),
    "an agent without a name": answer({"agentId": None}, "201 Created"),
    "too deep": answer(b"[" * 200_000, "201 Created"),
    "a list": answer(b"[]", "201 Created"),
    "no JSON": answer(b"welcome", "200 OK"),
    "elsewhere": answer(b"", "302 Found", "Location: http://localhost:1/"),
}


@pytest.mark.parametrize("name", PASSES)
async def test_task_waits_on_where_no_orchestrator_has_taken_or_refused_it(tmp_path: Path, name: str) -> None:
    found = await tried_once(tmp_path, PASSES[name])
    assert (found.state, found.agent_id) == (State.PENDING, None)
    assert found.error


async def test_task_that_was_taken_or_refused_is_settled(tmp_path: Path) -> None:
    taken = await tried_once(tmp_path / "taken", answer({"agentId": "a1"}, "201 Created"))
    assert (taken.state, taken.agent_id) == (State.DISPATCHED, "a1")
    refused = await tried_once(tmp_path / "refused", refusal(422, "invalid"))
    assert (refused.state, refused.error) == (State.FAILED, "invalid: why")
