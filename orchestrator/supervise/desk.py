"""What the API asks of the rooms below it: may this task come in, what did that agent change.

Checks made here are made before a task is accepted, so a client learns at once, by the name of the field,
what can never work. Given to `api` as callables at assembly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from orchestrator.agents.purse import Purse, unpriced
from orchestrator.agents.registry import Runtimes
from orchestrator.core.egress import read_entries
from orchestrator.core.model import Agent, AgentId
from orchestrator.core.protected import guard_of
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import FieldRefused, RepositoryError, RuntimeUnknown, UrlRefused
from orchestrator.gates.base import AI_REVIEW, Gates
from orchestrator.gates.judges import Judges
from orchestrator.journal.store import Store
from orchestrator.repo.repositories import Repositories
from orchestrator.review.gate import ReviewGate
from orchestrator.supervise.supervisor import Supervisor
from sandbox.base import Usage

#: Bytes of a diff that are ever shown.
MAX_DIFF_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Desk:
    """Answers about tasks and agents that need more than the journal."""

    store: Store
    repositories: Repositories
    supervisor: Supervisor
    runtimes: Runtimes
    purse: Purse
    gates: Gates
    #: Globs of branches that nothing lands on.
    protected: tuple[str, ...]
    #: Whether every agent runs in a sandbox, whatever its task asks.
    sandboxed: bool
    judges: Judges = field(default_factory=Judges)

    def check_task(self, spec: TaskSpec) -> str:
        """Return the runtime that will serve the task; raise `FieldRefused` for what can never work here."""
        try:
            self.repositories.check_url(spec.context.repository)
        except UrlRefused as refused:
            raise FieldRefused("context.repository", refused.detail) from refused
        if self.sandboxed and not spec.options.sandbox:
            raise FieldRefused("options.sandbox", "every agent runs in a sandbox here (SANDBOX_ENABLED)")
        if guard := guard_of(spec.landing_branch, self.protected):
            what = f"{spec.landing_branch} is protected (PROTECTED_BRANCHES has {guard})"
            raise FieldRefused("options.landing.branch", what)
        if spec.options.landing.pull_request:
            raise FieldRefused("options.landing.pullRequest", "no forge is configured that could take one")
        for number, text in enumerate(spec.options.network.allow or ()):
            try:
                read_entries(text.lower(), loosely=True)
            except ValueError as error:
                raise FieldRefused(f"options.network.allow.{number}", f"{text!r} {error}") from error
        runtime = self.runtimes.default_name(spec)
        try:
            self.runtimes.find(runtime).check(spec)
        except RuntimeUnknown as unknown:
            raise FieldRefused("options.runtime", unknown.detail) from unknown
        self._check_price(spec)
        if self.judges.local:  # else the coordinator says what it has, when it is asked
            self.gates.check(spec)
        return runtime

    def _check_price(self, spec: TaskSpec) -> None:
        """Refuse a model that nobody knows the price of, where a budget counts money."""
        model = spec.options.model
        if not self.purse.counts_money(spec.options.budget):
            return
        if model and self.purse.prices.find(model) is None:
            raise FieldRefused("options.model", unpriced(model))
        reviewer = self.gates.named(AI_REVIEW)
        if isinstance(reviewer, ReviewGate) and AI_REVIEW in self.gates.plan(spec.profile, spec.gates).run:
            model = reviewer.model_of()
            if self.purse.prices.find(model) is None:
                raise FieldRefused("gates", f"the reviewer (REVIEW_MODEL): {unpriced(model)}")

    async def diff(self, agent: Agent) -> bytes | None:
        """Return the agent's candidate as a diff against its base, or None where there is none to see."""
        live = self.supervisor.live(agent.id)
        if live is not None and (worktree := live.run.progress.worktree) and live.run.progress.sealed:
            sealed = live.run.progress.sealed
            return await worktree.quarantine.over(sealed.base).diff(sealed.commit, max_bytes=MAX_DIFF_BYTES)
        task = await self.store.find_task(agent.task_id)
        if task is None or agent.base is None:
            return None
        commit = agent.commit or f"refs/salvage/{agent.id}"
        try:
            return await self.repositories.diff(
                task.spec.context.repository, agent.base, commit, max_bytes=MAX_DIFF_BYTES
            )
        except RepositoryError:
            return None

    def resources(self, agent_id: AgentId) -> dict[str, float]:
        """Return what the agent's processes use now."""
        live = self.supervisor.live(agent_id)
        used = live.gauge.read(live.run.tree.usage, trio.current_time()) if live else Usage()
        return {
            "memoryBytes": used.memory_bytes,
            "cpuSeconds": used.cpu_seconds,
            "processes": used.processes,
        }
