"""Judges a candidate that another host has made: takes it in as hostile, and runs the gates on it.

The invariant: what is judged is the commit that was asked about, on a base that our own mirror of the
repository has; the base defines the gates, and they run in a sandbox, as they do beside an agent. What the
candidate did wrong is an answer; what keeps us from judging it is an error, and so no approval. Nothing of a
candidate outlives its judgement. Called by `app`.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable
from typing import Any

import trio
from pydantic import ValidationError

from orchestrator.api.problem import FieldError, Invalid, RateLimited, invalid
from orchestrator.core.model import Verdict
from orchestrator.core.quality import COORDINATOR, MAX_BUNDLE_BYTES, QualityCheck, answer_of
from orchestrator.core.spec import Context, TaskSpec
from orchestrator.errors import FieldRefused
from orchestrator.gates.base import Exhibit, Gates, Phase, Plan
from orchestrator.repo.handing import base_on, take_in
from orchestrator.repo.quarantine import Quarantine
from orchestrator.repo.repositories import Repositories
from orchestrator.supervise.exhibiting import base_of, show
from sandbox.base import Backend, Limits

log = logging.getLogger(__name__)

#: Shorter than who asks is willing to wait.
GATE_S = 840.0
#: Candidates that may wait for a place; each is in memory.
MAX_WAITING = 16
BUSY_S = 15.0
MAX_VIOLATIONS = 20


class Bench:
    """Where candidates are judged, so many at once."""

    def __init__(
        self,
        repositories: Repositories,
        backend: Backend,
        gates: Gates,
        limits: Limits,
        *,
        places: int,
        new_id: Callable[[], str],
    ) -> None:
        self.gates = gates
        self.repositories = repositories
        self._backend = backend
        self._limits = limits
        self._new_id = new_id
        self._places = trio.CapacityLimiter(places)

    async def judge(self, check: QualityCheck) -> dict[str, Any]:
        """Return the answer to a question, as the contract has it.

        Raises `Invalid` or `FieldRefused` for a question that cannot be judged here, `RateLimited` where too
        many wait, and `RepositoryError` where the base cannot be had.
        """
        spec = _spec_of(check)
        self.gates.check(spec)
        if self._places.statistics().tasks_waiting >= MAX_WAITING:
            raise RateLimited(BUSY_S)
        async with self._places:
            verdicts, plan = await self._judge(check, spec)
        log.info(
            "judged",
            extra={
                "task_id": check.task_id,
                "commit": check.commit,
                "phase": check.phase,
                "approved": all(verdict.approved for verdict in verdicts),
            },
        )
        return answer_of(verdicts, _left_out(plan, Phase(check.phase)))

    async def _judge(self, check: QualityCheck, spec: TaskSpec) -> tuple[list[Verdict], Plan]:
        plan = self.gates.plan(spec.profile, spec.gates)
        if not plan.of(Phase(check.phase)):
            return [], plan
        if check.base is None:
            why = "is needed: send it, with the bundle, to a coordinator that runs the gates itself"
            raise Invalid([FieldError("base", why)])
        if check.bundle is None:
            return [_rejected(check, f"the change is larger than {MAX_BUNDLE_BYTES >> 20} MiB packed")], plan
        bundle = _decoded(check.bundle)
        where = (self.repositories, check.repository, check.branch, check.base)
        base = await base_on(*where, landing=check.landing_branch)
        label = self._new_id()
        async with self.repositories.open_worktree(
            base, agent_id=label, task_id=check.task_id, backend=self._backend
        ) as worktree:
            await take_in(worktree.quarantine, bundle, check.commit)
            if violations := await worktree.quarantine.judge(check.commit):
                told = (f"{each.rule}: {each.path}: {each.detail}" for each in violations[:MAX_VIOLATIONS])
                return [_rejected(check, "policy " + "; ".join(told))], plan
            plan = await self._plan(spec, worktree.quarantine)
            names = plan.of(Phase(check.phase))
            exhibit = await self._exhibit(check, spec, worktree.quarantine, label)
            verdicts = await self.gates.run(names, exhibit, deadline_s=GATE_S, judged=_nothing)
        return list(verdicts), plan

    async def _plan(self, spec: TaskSpec, quarantine: Quarantine) -> Plan:
        """Return the gates of the task on its base; raise `FieldRefused` where no candidate could pass."""
        plan = await self.gates.plan_on(spec.profile, spec.gates, await base_of(quarantine))
        if plan.refused:
            raise FieldRefused("gates", "; ".join(f"{gate.gate}: {gate.reason}" for gate in plan.refused))
        return plan

    async def _exhibit(
        self, check: QualityCheck, spec: TaskSpec, quarantine: Quarantine, label: str
    ) -> Exhibit:
        async def output(stream: str, line: str) -> None:
            await trio.lowlevel.checkpoint()
            log.debug("%s", line, extra={"task_id": check.task_id, "stream": stream})

        return show(
            quarantine,
            check.commit,
            await quarantine.changed(check.commit),
            spec=spec,
            agent_id=label,
            backend=self._backend,
            checkouts=self._backend,
            limits=self._limits,
            output=output,
            share="who asks does not know it" if check.ai_share is None else check.ai_share,
        )


def _left_out(plan: Plan, phase: Phase) -> dict[str, str]:
    """Return the gates of the profile that a phase should have had and that were not run, and why."""
    names = Plan(tuple(gate.gate for gate in plan.skipped)).of(phase)
    return {gate.gate: gate.reason for gate in plan.skipped if gate.gate in names}


async def _nothing(_verdict: Verdict) -> None:
    """Journal nothing: who asks does."""
    await trio.lowlevel.checkpoint()


def _spec_of(check: QualityCheck) -> TaskSpec:
    """Return the task as far as its gates need it; raises `Invalid` where no task is such."""
    try:
        context = Context(repository=check.repository, branch=check.branch)
        return TaskSpec(
            task_id=check.task_id, gate_profile=check.gate_profile, gates=check.gates, context=context
        )
    except ValidationError as error:
        raise invalid(error) from None


def _decoded(bundle: str) -> bytes:
    try:
        return base64.b64decode(bundle, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid([FieldError("bundle", "is no base64")]) from None


def _rejected(check: QualityCheck, message: str) -> Verdict:
    return Verdict(gate=COORDINATOR, approved=False, message=message, commit=check.commit)
