"""Who reviews on a host: the model that is set, where there is a key; and what it costs is known before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.agents.models import default_model
from orchestrator.agents.prices import read_prices
from orchestrator.agents.purse import Purse
from orchestrator.agents.registry import make_runtimes
from orchestrator.config import load_settings
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import FieldRefused
from orchestrator.gates.judges import Judges
from orchestrator.gates.registry import make_gates
from orchestrator.repo.bare import Identity
from orchestrator.repo.repositories import Repositories
from orchestrator.repo.url import UrlRules
from orchestrator.review.gate import ReviewGate
from orchestrator.review.registry import make_reviewer
from orchestrator.supervise.desk import Desk
from sandbox.probe import default_user

KEY = "k" * 20


def reviewer_of(home: Path, **environ: str) -> ReviewGate | None:
    """Return the reviewer of a host that is set so."""
    settings = load_settings({"ORCHESTRATOR_HOME": str(home), **environ}, uid=1000)
    return make_reviewer(settings)


@pytest.mark.parametrize(
    ("environ", "model"),
    [
        ({}, None),
        ({"REVIEW_MODEL": "m-2"}, None),
        ({"CLAUDE_API_KEY": KEY, "CLAUDE_MODEL": "m-1"}, "m-1"),
        ({"CLAUDE_API_KEY": KEY, "CLAUDE_MODEL": "m-1", "REVIEW_MODEL": "m-2"}, "m-2"),
        ({"CLAUDE_API_KEY": KEY}, default_model()),
    ],
)
def test_reviewer_is_the_model_that_is_set(
    tmp_path: Path, environ: dict[str, str], model: str | None
) -> None:
    gate = reviewer_of(tmp_path, **environ)
    assert (gate and gate.model_of()) == model


@pytest.mark.parametrize(
    ("gates", "budget", "model", "refused"),
    [
        (["ai-review"], {"costUsd": 1}, "m-1", True),
        (["ai-review"], {"costUsd": 1}, "claude-opus-5-5", False),
        (["ai-review"], {"tokens": 1000}, "m-1", False),
        (["tests"], {"costUsd": 1}, "m-1", False),
    ],
)
def test_budget_of_money_needs_the_price_of_the_reviewer_that_the_task_gets(
    tmp_path: Path, gates: list[str], budget: dict[str, Any], model: str, *, refused: bool
) -> None:
    reviewer = reviewer_of(tmp_path, CLAUDE_API_KEY=KEY, REVIEW_MODEL=model)
    who = Identity("Orchestrator", "orchestrator@localhost")
    here = Repositories(tmp_path, user=default_user(), layered=False, rules=UrlRules(()), identity=who)
    nobody: Any = None  # neither is asked
    desk = Desk(
        nobody,
        here,
        nobody,
        make_runtimes(),
        Purse(read_prices()),
        make_gates(reviewer),
        (),
        sandboxed=True,
        judges=Judges(),
    )
    spec = TaskSpec.model_validate(
        {
            "taskId": "T",
            "gateProfile": "custom",
            "gates": gates,
            "context": {"repository": "https://example.org/r"},
            "options": {"command": ["true"], "budget": budget},
        }
    )
    if not refused:
        assert desk.check_task(spec) == "command"
        return
    with pytest.raises(FieldRefused, match=r"REVIEW_MODEL.*no price is known of the model 'm-1'") as error:
        desk.check_task(spec)
    assert error.value.field == "gates"
