"""A candidate becomes commits of record: as one, or each of the agent's own where the task asks for that.

Invariant: every commit that lands was judged by the policy, not the last alone. Called by `judging`.
"""

from __future__ import annotations

from orchestrator.repo.policy import Violation
from orchestrator.repo.quarantine import Quarantine, Sealed
from orchestrator.repo.sealing import MAX_KEPT
from orchestrator.supervise.gear import Run
from orchestrator.supervise.message import commit_message


async def find_violations(run: Run, quarantine: Quarantine, candidate: str) -> list[Violation]:
    """Return what the policy does not allow in what would land."""
    if run.spec.options.landing.commits == "keep":
        for commit in await quarantine.line_of(candidate):
            if found := await quarantine.judge(commit):
                return found
    return await quarantine.judge(candidate)


async def seal(run: Run, quarantine: Quarantine, candidate: str, *, gates: str) -> Sealed:
    """Make the commit or the commits of record of a candidate that the policy allows.

    `gates` names who must approve of it.
    """
    spec, agent_id = run.spec, run.agent.id

    def message_of(said: str) -> str:
        subject, _, body = said.strip().partition("\n")
        own = quarantine.is_own(subject)
        return commit_message(spec, agent_id, "" if own else subject, gates=gates, body="" if own else body)

    if spec.options.landing.commits == "keep":
        if kept := await quarantine.seal_each(candidate, message_of):
            return kept
        if not await quarantine.line_of(candidate):
            await run.output("system", f"its commits are no line of at most {MAX_KEPT}, so they land as one")
    subject = await quarantine.subject_of(candidate)
    return await quarantine.seal(candidate, commit_message(spec, agent_id, subject, gates=gates))
