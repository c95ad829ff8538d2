"""Hands tasks over to an orchestrator, once they have passed a pre-check.

The invariant: what was taken in is handed over once, whatever crashes or is away meanwhile: the record is
durable before anybody is told, and every try bears the task's own idempotency key. A task leaves the line
only dispatched, or refused for a reason that trying again would not change. Run by `service`, several at
once.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from orchestrator.client import PASSING, Client, ClientError, Unreachable
from orchestrator.coordinator.ledger import Dispatch, Ledger, State
from orchestrator.core.policy import backoff_s
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import OrchestratorError
from orchestrator.gates.base import Gates
from orchestrator.repo.repositories import Repositories

log = logging.getLogger(__name__)

#: The longest between two tries.
MAX_PAUSE_S = 60.0
MAX_AGENT_ID = 128  # characters
#: Refusals that an operator puts right, and that are no task's fault.
_DOOR = frozenset({401, 403, 404, 405, 408, 429})

OpenClient = Callable[[], AbstractAsyncContextManager[Client]]


class SpecStale(OrchestratorError):
    """An earlier version took this task in, and this one cannot read it: hand it in anew."""

    code = "task_unreadable"


class PreCheck:
    """What a task has to pass before anybody works on it."""

    def __init__(self, repositories: Repositories, gates: Gates) -> None:
        self._repositories = repositories
        self._gates = gates

    def at_once(self, spec: TaskSpec) -> None:
        """Raise `FieldRefused` or `UrlRefused` for what can be seen to be wrong without asking anybody."""
        self._repositories.check_url(spec.context.repository)
        self._gates.check(spec)

    async def whole(self, spec: TaskSpec) -> None:
        """Raise for what is wrong with the task's repository or branch; `retryable` says if it may pass."""
        self.at_once(spec)
        await self._repositories.resolve(spec.context.repository, spec.context.branch)


class Dispatcher:
    """The line of tasks that wait to be handed over."""

    def __init__(
        self,
        ledger: Ledger,
        check: PreCheck,
        open_client: OpenClient,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._ledger = ledger
        self._check = check
        self._open_client = open_client
        self._chance = chance
        #: When each that waits is next tried; who is at it is not in here.
        self._due: dict[str, float] = {}
        self._moved = trio.lowlevel.ParkingLot()

    async def submit(self, spec: TaskSpec) -> tuple[Dispatch, bool]:
        """Take a task in; durable on return. Returns its row, and whether it is new."""
        self._check.at_once(spec)
        entry, fresh = await self._ledger.take(spec)
        if fresh:
            self._put(entry.task_id, 0.0)
        return entry, fresh

    async def recover(self) -> None:
        """Take up what an earlier life left pending."""
        for entry in await self._ledger.pending():
            self._put(entry.task_id, 0.0)

    def _put(self, task_id: str, wait_s: float) -> None:
        self._due[task_id] = trio.current_time() + wait_s
        self._moved.unpark_all()

    async def run(self) -> None:
        """Hand tasks over, one after the other, until cancelled."""
        while True:
            task_id = await self._next()
            wait_s: float | None = None
            try:
                wait_s = await self._hand_over(await self._ledger.find(task_id))
            except OrchestratorError as error:  # the record itself cannot be written now
                log.error("a task could not be dispatched: %s", error.detail, extra={"task_id": task_id})
                wait_s = MAX_PAUSE_S
            if wait_s is not None:
                self._put(task_id, wait_s)

    async def _next(self) -> str:
        while True:
            now = trio.current_time()
            task_id, at = min(self._due.items(), key=lambda item: item[1], default=("", float("inf")))
            if at <= now:
                del self._due[task_id]
                return task_id
            with trio.CancelScope(deadline=at):
                await self._moved.park()

    async def _hand_over(self, entry: Dispatch) -> float | None:
        """Try once; return the seconds until the next try, None where there is none."""
        try:
            await self._check.whole(_spec_of(entry))
        except OrchestratorError as error:
            if not error.retryable:
                await self._settle(entry, State.REJECTED, error)
                return None
            return await self._later(entry, f"pre-check: {error.detail}")
        try:
            async with self._open_client() as client:
                agent_id = _agent_of(await client.spawn(json.loads(entry.spec), idempotency_key=entry.key))
        except Unreachable as error:
            return await self._later(entry, error.detail)
        except ClientError as error:
            if error.status >= 500 or error.status in _DOOR or error.retryable or error.code in PASSING:
                return await self._later(entry, f"{error.code}: {error.detail}", error.retry_after_s)
            await self._settle(entry, State.FAILED, error)
            return None
        await self._ledger.settle(entry.task_id, State.DISPATCHED, agent_id=agent_id)
        log.info("dispatched", extra={"task_id": entry.task_id, "agent_id": agent_id})
        return None

    async def _later(self, entry: Dispatch, why: str, at_least_s: float = 0.0) -> float:
        await self._ledger.note_failure(entry.task_id, why)
        return min(max(backoff_s(entry.tries + 1, self._chance()), at_least_s), MAX_PAUSE_S)

    async def _settle(self, entry: Dispatch, state: State, error: OrchestratorError) -> None:
        await self._ledger.settle(entry.task_id, state, error=f"{error.code}: {error.detail}")
        log.warning("not dispatched", extra={"task_id": entry.task_id, "state": state, "why": error.detail})


def _agent_of(answer: dict[str, Any]) -> str:
    """Return the agent that an answer names; raises `Unreachable` where it names none: no task was taken."""
    agent_id = answer.get("agentId")
    if not isinstance(agent_id, str) or not 0 < len(agent_id) <= MAX_AGENT_ID:
        raise Unreachable("what answers is no orchestrator: it names no agent")
    return agent_id


def _spec_of(entry: Dispatch) -> TaskSpec:
    """Return the task; raises `SpecStale` for one that another version took in and this one cannot read."""
    try:
        return TaskSpec.model_validate(json.loads(entry.spec))
    except ValueError:
        raise SpecStale from None
