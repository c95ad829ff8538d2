"""The record of dispatches: what is taken in stays, once, and within bounds."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.coordinator.ledger import Ledger, OtherTask, State, open_ledger
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import JournalInUse, TaskUnknown
from orchestrator.journal.store import utc_now


def spec_of(task: str, **fields: object) -> TaskSpec:
    """Return a task."""
    body = {"taskId": task, "context": {"repository": "https://example.com/r.git"}, **fields}
    return TaskSpec.model_validate(body)


@asynccontextmanager
async def opened(home: Path, kept: int = 1000) -> AsyncIterator[Ledger]:
    """Open the record of a home."""
    keys = itertools.count(1)
    async with open_ledger(home, clock=utc_now, new_id=lambda: f"key-{next(keys)}", kept=kept) as ledger:
        yield ledger


async def test_task_is_taken_in_once_and_keeps_its_key_over_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first, fresh = await ledger.take(spec_of("A"))
        again, twice = await ledger.take(spec_of("A"))
        assert (fresh, twice, again) == (True, False, first)
        with pytest.raises(OtherTask):
            await ledger.take(spec_of("A", priority=9))
        with pytest.raises(JournalInUse):
            async with opened(tmp_path):
                pass
    async with opened(tmp_path) as ledger:
        assert await ledger.pending() == [first]


async def test_what_is_settled_stays_settled(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.take(spec_of("A"))
        await ledger.note_failure("A", "away")
        await ledger.settle("A", State.DISPATCHED, agent_id="agent")
        await ledger.settle("A", State.FAILED, error="too late")
        await ledger.note_failure("A", "too late")
        told = (await ledger.find("A")).shown()
        assert (told["state"], told["agentId"], told["tries"]) == ("dispatched", "agent", 2)
        with pytest.raises(TaskUnknown):
            await ledger.find("B")


async def test_old_rows_go_and_pending_ones_stay(tmp_path: Path) -> None:
    async with opened(tmp_path, kept=3) as ledger:
        await ledger.take(spec_of("waits"))
        for number in range(8):
            await ledger.take(spec_of(f"t{number}"))
            await ledger.settle(f"t{number}", State.REJECTED, error="no")
        kept = [entry.task_id for entry in await ledger.page(after=0, limit=10)]
        assert kept == ["t7", "t6", "t5", "t4", "waits"]
        assert [entry.task_id for entry in await ledger.page(after=8, limit=1)] == ["t5"]
