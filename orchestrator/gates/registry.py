"""The gates that this host has, made once from what it is set to.

Called at assembly; a new gate has its row here.
"""

from __future__ import annotations

from orchestrator.gates.base import KNOWN_GATES, Gates
from orchestrator.gates.mechanical import MechanicalGate

#: The gates that run a tool of the project.
MECHANICAL = tuple(name for name in KNOWN_GATES if name != "ai-review")


def make_gates() -> Gates:
    """Return the gates of this host."""
    return Gates([MechanicalGate(name) for name in MECHANICAL])
