"""What an agent says it came to: read after each of its turns, judged by its role's schema, never believed.

Invariant: a result that does not fit changes nothing but words. A role whose result is its work is told once
what is wrong, at its first prompt; any other time, and for any other role, the log has a line. Called by
`run`, which journals what was found with the answer to the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.core.result import MAX_RESULT_BYTES, RESULT_NEEDED, parse_result, result_in
from orchestrator.errors import ResultMalformed
from orchestrator.repo.worktree import Worktree
from orchestrator.supervise.gear import Run


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result as JSON, or what is to be said to the agent about the want of one."""

    result: dict[str, Any] | None = None
    complaints: tuple[str, ...] = ()


async def read_outcome(run: Run, worktree: Worktree, said: str, *, first: bool) -> Outcome:
    """Return the result that the agent left, in its file or at the end of what it `said` last."""
    role = run.spec.agent_type
    try:
        written = worktree.read_result(max_bytes=MAX_RESULT_BYTES)
        written = result_in(said) if written is None else written
        if written is not None:
            result = parse_result(role, written)
            return Outcome(result.model_dump(mode="json", by_alias=True, exclude_none=True))
        trouble = "there is none: no file, and no block of JSON at the end of the last message"
    except ResultMalformed as malformed:
        written, trouble = b"", malformed.detail
    if role not in RESULT_NEEDED:
        if written is not None:
            await run.output("system", f"the agent's result is left out: {trouble}")
        return Outcome()
    if first:
        return Outcome(complaints=(f"result: {trouble}",))
    await run.output("system", f"the agent gave no result that counts: {trouble}")
    return Outcome()
