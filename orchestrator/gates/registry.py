"""The gates that this host has, made once from what it is set to.

Called at assembly; a new gate has its row here.
"""

from __future__ import annotations

from orchestrator.gates.base import Gates
from orchestrator.gates.tests import TestsGate


def make_gates() -> Gates:
    """Return the gates of this host."""
    return Gates((TestsGate(),))
