"""The facts about a candidate: how it was judged, and whether it landed; and what was reached to make it.

Import them from `events`; `fold` has what two of them do to their agent from here.
"""

from __future__ import annotations

from orchestrator.core.conflict import FileConflict
from orchestrator.core.event import AgentEvent
from orchestrator.core.model import Agent, PushIntent, Verdict, changed


class GatePassed(AgentEvent):
    """A gate approved the candidate."""

    name = "gate.passed"
    verdict: Verdict
    ai_share: float | None = None


class GateRejected(AgentEvent):
    """A gate rejected the candidate."""

    name = "gate.rejected"
    verdict: Verdict
    ai_share: float | None = None


def judged(agent: Agent, event: GatePassed | GateRejected) -> Agent:
    """Return the agent with one more verdict."""
    share = agent.ai_share if event.ai_share is None else event.ai_share
    return changed(agent, verdicts=(*agent.verdicts, event.verdict), ai_share=share)


class GateSkipped(AgentEvent):
    """A gate that the profile asks for was not run, and why."""

    name = "gate.skipped"
    gate: str
    message: str


class SecretDetected(AgentEvent):
    """A secret was found in the candidate; the value is never kept."""

    name = "secret.detected"
    rule: str
    #: The file's path, or the id of the commit whose message or author holds it.
    path: str
    line: int | None = None
    #: By which this installation knows the value again, and nobody else.
    hmac: str | None = None
    detail: str | None = None


class PolicyViolated(AgentEvent):
    """The candidate breaks a rule of the repository policy."""

    name = "policy.violated"
    rule: str
    path: str
    detail: str = ""


class ConflictDetected(AgentEvent):
    """The candidate does not fit the present state of the remote."""

    name = "conflict.detected"
    detail: str
    #: The branch, the commit that the work stood on, the one that the branch has now, and where both differ.
    branch: str | None = None
    base: str | None = None
    onto: str | None = None
    files: tuple[FileConflict, ...] | None = None


class ConflictPredicted(AgentEvent):
    """The agent changes files that another changes, or that it has landed on a branch that is still open."""

    name = "conflict.predicted"
    other_agent_id: str
    other_task_id: str
    #: Where the other lands, or has landed.
    branch: str
    landed: bool
    #: The first of the files, by name, and how many they are.
    files: tuple[str, ...]
    total: int


class CommitCreated(AgentEvent):
    """The commit of record exists in quarantine: exactly this is judged and pushed.

    `ai_share`, here and of gates, is the part of the lines over its target that agents wrote (`core.share`).
    """

    name = "commit.created"
    commit: str
    base: str
    branch: str
    files: int
    additions: int
    deletions: int
    ai_share: float | None = None


def committed(agent: Agent, event: CommitCreated) -> Agent:
    """Return the agent with its commit of record."""
    share = agent.ai_share if event.ai_share is None else event.ai_share
    return changed(agent, commit=event.commit, branch=event.branch, ai_share=share)


class PushCompleted(AgentEvent):
    """The remote has the commit."""

    name = "push.completed"
    push: PushIntent


class PushRejected(AgentEvent):
    """The remote refused the push."""

    name = "push.rejected"
    push: PushIntent
    error: str


class YoloUsed(AgentEvent):
    """The quality gates were skipped for this agent."""

    name = "yolo.used"
    commit: str | None = None
    gates: tuple[str, ...] = ()


class EgressAllowed(AgentEvent):
    """The agent reached a host outside, for the first time in this life."""

    name = "egress.allowed"
    host: str
    port: int


class EgressRefused(AgentEvent):
    """The agent asked for a host outside that it may not reach, for the first time in this life."""

    name = "egress.refused"
    host: str
    port: int | None = None
    detail: str
