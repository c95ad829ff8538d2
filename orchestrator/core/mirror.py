"""What the API answers about the mirror in Valkey; see `core.answer`."""

from __future__ import annotations

from orchestrator.core.answer import Answer
from orchestrator.errors import OrchestratorError


class MirrorUnavailable(OrchestratorError):
    """There is no Valkey to compare with: none is set (VALKEY_URL), or it is away."""

    code = "mirror_unavailable"
    status = 503
    retryable = True


class MirrorDifference(Answer):
    """A key that was not as the journal says: `missing`, `stale`, `differs` or `expiry`, or `place`.

    A `place` is in the queue, and its key is followed by the task's id.
    """

    key: str
    problem: str


class MirrorCompared(Answer):
    """How Valkey stood beside the journal, and what was put right; at most a hundred differences are told."""

    compared: int
    differing: int
    repaired: int
    differences: tuple[MirrorDifference, ...] = ()
