"""Who reviews on a host: the model that is set, where there is a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.agents.models import default_model
from orchestrator.config import load_settings
from orchestrator.review.registry import make_reviewer


def reviewer_of(home: Path, **environ: str) -> str | None:
    """Return the model of the reviewer on a host that is set so."""
    settings = load_settings({"ORCHESTRATOR_HOME": str(home), **environ}, uid=1000)
    gate = make_reviewer(settings)
    return None if gate is None else gate.model_of()


@pytest.mark.parametrize(
    ("environ", "model"),
    [
        ({}, None),
        ({"REVIEW_MODEL": "m-2"}, None),
        ({"CLAUDE_API_KEY": "k" * 20, "CLAUDE_MODEL": "m-1"}, "m-1"),
        ({"CLAUDE_API_KEY": "k" * 20, "CLAUDE_MODEL": "m-1", "REVIEW_MODEL": "m-2"}, "m-2"),
        ({"CLAUDE_API_KEY": "k" * 20}, default_model()),
    ],
)
def test_reviewer_is_the_model_that_is_set(
    tmp_path: Path, environ: dict[str, str], model: str | None
) -> None:
    assert reviewer_of(tmp_path, **environ) == model
