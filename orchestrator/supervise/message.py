"""The messages of commits of record: a subject, and trailers for whom, by whom, and what it passed.

Invariant: the trailers are ours: what an agent wrote in their form is left out. Gates are named before they
have run: a commit that one of them rejects never lands.
"""

from __future__ import annotations

import re

from orchestrator.core.spec import TaskSpec

MAX_SUBJECT = 100
#: Characters of an agent's own words below the subject.
MAX_BODY = 8000
_OURS = re.compile(
    r"^[ \t]*(task|agent|role|gates|work-item)(-id)?[ \t]*:.*$\n?", re.IGNORECASE | re.MULTILINE
)
SKIPPED = "skipped (YOLO)"


def commit_message(spec: TaskSpec, agent_id: str, subject: str, *, gates: str, body: str = "") -> str:
    """Return the message; `subject` is the agent's own and already free of control characters, or empty.

    `gates` are the names of those that judge the commit, or why there are none.
    """
    title = subject.strip() or _title_of(spec)
    trailers = [f"Task: {spec.task_id}", f"Agent: {agent_id}", f"Role: {spec.agent_type}", f"Gates: {gates}"]
    trailers += [f"Work-Item: {item}" for item in spec.context.work_items[:32]]
    said = _OURS.sub("", body).strip()[:MAX_BODY].strip()
    return "\n\n".join([title[:MAX_SUBJECT], *([said] if said else []), "\n".join(trailers)]) + "\n"


def _title_of(spec: TaskSpec) -> str:
    words = next((line.strip() for line in spec.context.instructions.splitlines() if line.strip()), "")
    plain = "".join(char for char in words if char.isprintable())
    return f"{spec.task_id}: {plain}" if plain else f"Work on {spec.task_id}"
