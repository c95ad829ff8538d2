"""The words that an agent gets: the task at first, and why its candidate was rejected after.

They are the templates of `agents/prompts`, one a role, in Jinja2's sandbox. The invariant: a prompt is a pure
function of what is given in, so the same agent gets the same bytes again after a restart; a name that a
template has and we do not give is an error and not an empty word; what others wrote is shown by
`agents.fence` only, and is never itself taken for a template. Callers: `supervise.briefing`,
`supervise.resumption` and `cli.prompt`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orchestrator.agents.fence import Untrusted, clip, code, fenced
from orchestrator.core.result import RESULT_NEEDED
from orchestrator.core.spec import MAX_INSTRUCTIONS, TaskSpec
from orchestrator.core.survey import Survey

#: Characters of one reason, and how many reasons a prompt holds.
MAX_REASON = 12_000
MAX_REASONS = 32
#: Characters of one skill.
MAX_SKILL = 32_000

#: Where an agent's result stands inside a namespaced sandbox.
RESULT_DIRECTORY = "/orchestrator/result"

_TEMPLATES = Path(__file__).parent / "prompts"


@dataclass(frozen=True, slots=True)
class Skill:
    """How some kind of work is done, in somebody's words."""

    name: str
    text: str
    #: Whether the operator wrote it, and not the repository.
    trusted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Briefing:
    """What the prompt of a task is made of."""

    agent_id: str
    spec: TaskSpec
    #: Where the result goes, as the agent sees it.
    result_file: str
    #: How often a candidate may be judged.
    rounds: int
    #: The commit that the work starts from; None where it is not known yet.
    base: str | None = None
    survey: Survey | None = None
    #: Of the skills that the task names, those that were found.
    skills: tuple[Skill, ...] = ()
    #: The gates that will judge the work.
    gates: tuple[str, ...] = ()


@functools.cache
def environment() -> ImmutableSandboxedEnvironment:
    """Return the one environment in which our templates are rendered."""
    made = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,  # it is no HTML; what others wrote is fenced
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    made.filters["fenced"] = fenced
    made.filters["code"] = code
    return made


def task_prompt(briefing: Briefing) -> str:
    """Return the prompt of the first turn: who the agent is, what the task is, and how its work is taken."""
    spec, survey = briefing.spec, briefing.survey or Survey()
    context = spec.context
    found = {skill.name for skill in briefing.skills}
    return _render(
        f"{spec.agent_type.value}.md",
        agent_id=briefing.agent_id,
        task_id=spec.task_id,
        role=spec.agent_type.value,
        repository=Untrusted(context.repository),
        branch=context.branch,
        base=briefing.base,
        landing_branch=spec.landing_branch,
        work_items=[Untrusted(item) for item in context.work_items],
        instructions=Untrusted(context.instructions) if context.instructions.strip() else None,
        max_instructions=MAX_INSTRUCTIONS,
        languages=survey.languages,
        build_files=survey.build_files,
        survey_whole=survey.whole,
        skills=[(Untrusted(skill.name), Untrusted(skill.text), skill.trusted) for skill in briefing.skills],
        topics=[Untrusted(name) for name in context.skills if name not in found],
        max_skill=MAX_SKILL,
        gates=briefing.gates,
        rounds=briefing.rounds,
        timeout_s=spec.options.timeout,
        result_file=briefing.result_file,
        result_needed=spec.agent_type in RESULT_NEEDED,
    )


def feedback_prompt(
    agent_id: str,
    task_id: str,
    reasons: Sequence[str],
    *,
    task: str,
    round: int,  # noqa: A002
    rounds_left: int,
    moved: bool = False,
) -> str:
    """Return the prompt after a rejection: the reasons, fenced as data, and how many tries are left.

    `task` is the agent's first prompt, and ends this one. `moved` says that its branch has moved on, and its
    files with it.
    """
    return _render(
        "feedback.md",
        agent_id=agent_id,
        task_id=task_id,
        round=round,
        rounds_left=rounds_left,
        moved=moved,
        reasons=[Untrusted(reason) for reason in reasons[:MAX_REASONS]],
        more=max(0, len(reasons) - MAX_REASONS),
        max_reason=MAX_REASON,
        task=task,
    )


def clipped(reasons: Sequence[str]) -> tuple[str, ...]:
    """Return as much of the reasons as a prompt holds; clipping them again changes nothing."""
    return tuple(clip(reason, MAX_REASON) for reason in reasons[:MAX_REASONS])


def _render(name: str, **words: object) -> str:
    return environment().get_template(name).render(words)
