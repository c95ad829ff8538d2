"""Judges a candidate that another host has made: takes it in as hostile, and runs the gates on it.

The invariant: what is judged is the commit that was asked about, on a base that our own mirror of the
repository has; the base defines the gates, and they run in a sandbox on what its set-up made, as they do
beside an agent. What the candidate did wrong is an answer; what keeps us from judging it is an error, and so
no approval. Nothing of a candidate outlives its judgement. Called by `app`.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import trio
from pydantic import ValidationError

from orchestrator.agents.egress import Subject
from orchestrator.api.problem import FieldError, Invalid, RateLimited, invalid
from orchestrator.core.egress import Rules
from orchestrator.core.event import Event
from orchestrator.core.model import Verdict
from orchestrator.core.quality import COORDINATOR, MAX_BUNDLE_BYTES, QualityCheck, answer_of
from orchestrator.core.spec import Context, TaskSpec
from orchestrator.errors import FieldRefused
from orchestrator.gates.base import Exhibit, Gates, Output, Phase, Plan
from orchestrator.repo.handing import base_on, take_in
from orchestrator.repo.quarantine import Quarantine
from orchestrator.repo.repositories import Repositories
from orchestrator.supervise.exhibiting import base_of, show
from orchestrator.supervise.preparing import Maker, equip, make
from orchestrator.supervise.tree import Tree
from sandbox.base import Backend, Limits

log = logging.getLogger(__name__)

#: Shorter than who asks is willing to wait.
GATE_S = 840.0
#: What is left to the gates of that, however long the set-up took that they had to wait for.
LEAST_S = 300.0
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
        egress: Rules | None = None,
        setup_timeout_s: float = 900.0,
        new_id: Callable[[], str],
    ) -> None:
        self.gates = gates
        self.repositories = repositories
        self._backend = backend
        self._limits = limits
        #: What a repository's set-up may reach, and how long it may take where it does not say.
        self._egress, self._setup_timeout_s = egress or Rules(), setup_timeout_s
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
        tree = Tree(self._backend)
        began = tree.clock.now()
        async with AsyncExitStack() as keep:
            layer = await make(self._maker(check, label, tree), base, keep)
            deadline_s = max(LEAST_S, GATE_S - tree.clock.now() + began)
            opened = self.repositories.open_worktree(
                base, agent_id=label, task_id=check.task_id, backend=tree, layer=layer
            )
            worktree = await keep.enter_async_context(opened)
            await take_in(worktree.quarantine, bundle, check.commit)
            if violations := await worktree.quarantine.judge(check.commit):
                told = (f"{each.rule}: {each.path}: {each.detail}" for each in violations[:MAX_VIOLATIONS])
                return [_rejected(check, "policy " + "; ".join(told))], plan
            plan = await self._plan(spec, worktree.quarantine)
            names = plan.of(Phase(check.phase))
            exhibit = await self._exhibit(check, spec, worktree.quarantine, label, equip(tree, layer))
            verdicts = await self.gates.run(names, exhibit, deadline_s=deadline_s, judged=_nothing)
        return list(verdicts), plan

    def _maker(self, check: QualityCheck, label: str, tree: Tree) -> Maker:
        """Return what makes the set-up of a base, with the ways out that the operator gives it."""

        async def record(*events: Event) -> None:
            for event in events:
                await output("system", f"{event.name} {event.payload()}")

        output = _log_of(check)
        subject = Subject(check.task_id, label, record, output, tree.clock)
        preparations, timeout_s = self.repositories.preparations, self._setup_timeout_s
        # Nobody else takes a pass here: room is made before a further one is.
        return Maker(preparations, tree, subject, self._egress, self._limits, timeout_s, preparations.tidy)

    async def _plan(self, spec: TaskSpec, quarantine: Quarantine) -> Plan:
        """Return the gates of the task on its base; raise `FieldRefused` where no candidate could pass."""
        plan = await self.gates.plan_on(spec.profile, spec.gates, await base_of(quarantine))
        if plan.refused:
            raise FieldRefused("gates", "; ".join(f"{gate.gate}: {gate.reason}" for gate in plan.refused))
        return plan

    async def _exhibit(
        self, check: QualityCheck, spec: TaskSpec, quarantine: Quarantine, label: str, backend: Backend
    ) -> Exhibit:
        return show(
            quarantine,
            check.commit,
            await quarantine.changed(check.commit),
            spec=spec,
            agent_id=label,
            backend=backend,
            checkouts=backend,
            limits=self._limits,
            output=_log_of(check),
            share="who asks does not know it" if check.ai_share is None else check.ai_share,
        )


def _left_out(plan: Plan, phase: Phase) -> dict[str, str]:
    """Return the gates of the profile that a phase should have had and that were not run, and why."""
    names = Plan(tuple(gate.gate for gate in plan.skipped)).of(phase)
    return {gate.gate: gate.reason for gate in plan.skipped if gate.gate in names}


def _log_of(check: QualityCheck) -> Output:
    """Return what writes a line about a question into our log."""

    async def output(stream: str, line: str) -> None:
        await trio.lowlevel.checkpoint()
        log.debug("%s", line, extra={"task_id": check.task_id, "stream": stream})

    return output


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
