"""Every role's prompt for one example task, as the files beside it have them.

`python -m tests.agents.golden_prompts` writes them anew: read the difference before it is committed.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.agents.prompt import Briefing, Skill, feedback_prompt, task_prompt
from orchestrator.core.spec import Role, TaskSpec
from orchestrator.core.survey import Survey

GOLDEN = Path(__file__).parent / "prompts"


def briefing_of(role: Role, **over: object) -> Briefing:
    """Return what the prompt of an agent of this role is made of; `over` are fields of the context."""
    context: dict[str, object] = {
        "repository": "https://git.example.org/greeter.git",
        "branch": "main",
        "workItems": ["US-1", "US-2"],
        "skills": ["shell", "release-notes", "kindness"],
        "instructions": "Say goodbye, too.\n\nUse ```sh``` for it.\n",
    }
    spec = TaskSpec.model_validate(
        {
            "taskId": "US-001.3",
            "agentType": role.value,
            "context": {**context, **over},
            "options": {"timeout": 1800},
        }
    )
    return Briefing(
        agent_id="2f0c8a52-4c1d-4b7e-9a53-6f2d1f7f9a10",
        spec=spec,
        result_file="/orchestrator/result/result.json",
        rounds=3,
        base="4" * 40,
        survey=Survey((("Shell", 12), ("Python", 3)), ("Makefile", "README.md"), whole=False),
        skills=(
            Skill("shell", "# Shell\n\nQuote every expansion.\n", trusted=True),
            Skill("release-notes", "One line a change.", trusted=False),
        ),
        gates=("tests",),
    )


def prompts() -> dict[str, str]:
    """Return the text of every file by its name."""
    texts = {f"{role.value}.md": task_prompt(briefing_of(role)) for role in Role}
    reasons = ["gate tests: 1 of 3 failed\nnot ok 2 - bids farewell", "policy symlink: x: leads out"]
    brief = briefing_of(Role.WORKER)
    texts["feedback.md"] = feedback_prompt(
        brief.agent_id,
        brief.spec.task_id,
        reasons,
        task=task_prompt(brief),
        round=2,
        rounds_left=1,
    )
    return texts


def renew() -> None:
    """Write every file."""
    GOLDEN.mkdir(exist_ok=True)
    for name, text in prompts().items():
        (GOLDEN / name).write_text(text)


if __name__ == "__main__":
    renew()
