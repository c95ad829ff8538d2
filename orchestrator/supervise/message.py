"""The message of the commit of record: one subject, and trailers that name the task and the agent."""

from __future__ import annotations

from orchestrator.core.spec import TaskSpec

MAX_SUBJECT = 100


def commit_message(spec: TaskSpec, agent_id: str, subject: str) -> str:
    """Return the message; `subject` is the agent's own and already free of control characters, or empty."""
    title = subject.strip() or _title_of(spec)
    trailers = [f"Task-Id: {spec.task_id}", f"Agent-Id: {agent_id}"]
    trailers += [f"Work-Item: {item}" for item in spec.context.work_items[:32]]
    return f"{title[:MAX_SUBJECT]}\n\n" + "\n".join(trailers) + "\n"


def _title_of(spec: TaskSpec) -> str:
    words = next((line.strip() for line in spec.context.instructions.splitlines() if line.strip()), "")
    plain = "".join(char for char in words if char.isprintable())
    return f"{spec.task_id}: {plain}" if plain else f"Work on {spec.task_id}"
