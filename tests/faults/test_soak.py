"""F1, short: a mixed load while the supervisor is killed at random moments; `make soak` goes on for hours."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.soak import soak


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_f01_random_kills_under_a_mixed_load_break_no_invariant(reachable_path: Path) -> None:
    seed = random.randrange(10**6)
    figures = soak(reachable_path, kills=60, seconds=20, seed=seed)
    assert isinstance(figures["agent_kills"], int)
    assert figures["agent_kills"] >= 2, figures
    assert figures["supervisor_kills"], figures
