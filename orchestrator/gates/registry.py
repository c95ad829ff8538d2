"""The gates that this host has, made once from what it is set to.

Called at assembly; a new gate has its row here.
"""

from __future__ import annotations

from orchestrator.gates.base import AI_REVIEW, AI_SHARE, KNOWN_GATES, Gates
from orchestrator.gates.exhibit import Gate
from orchestrator.gates.mechanical import MechanicalGate
from orchestrator.gates.share import ShareGate

#: The gates that run a tool of the project.
MECHANICAL = tuple(name for name in KNOWN_GATES if name not in {AI_REVIEW, AI_SHARE})


def make_gates(reviewer: Gate | None = None, *, ai_share_max: float | None = None) -> Gates:
    """Return the gates of this host; the one that asks a model is made above, where models are known."""
    gates: list[Gate] = [MechanicalGate(name) for name in MECHANICAL]
    if reviewer is not None:
        gates.append(reviewer)
    if ai_share_max is None:
        return Gates(gates)
    return Gates([*gates, ShareGate(ai_share_max)], always=(AI_SHARE,))
