"""The first prompt of an agent: what is known about the task, the repository and the house, put together.

Invariant: what an agent wrote has no part in it. Skills come from the operator's directory first and then
from the base commit, by names that cannot lead elsewhere. It is kept beside the worktree, so that a later
life of the agent is asked in the same bytes. Called by `run`; `cli.prompt` shows an operator the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from orchestrator.agents.prompt import (
    MAX_SKILL,
    RESULT_DIRECTORY,
    Briefing,
    Skill,
    task_prompt,
)
from orchestrator.core.policy import MAX_ROUNDS
from orchestrator.repo.outbox import FILE_NAME
from orchestrator.repo.survey import read_texts
from orchestrator.repo.worktree import Base, Worktree
from orchestrator.supervise.gear import Run

#: What names a skill's file; other words of a task are told to the agent and looked up nowhere.
SKILL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}(?:\.[A-Za-z0-9_-]{1,63})*")
#: Skills of a task whose texts are told.
MAX_SKILLS = 16
#: Of a skill's file; a repository's larger one is left out, an operator's is cut.
MAX_SKILL_BYTES = 4 * MAX_SKILL
#: Where the authors of repositories put them.
_IN_REPOSITORY = (".claude/skills/{}/SKILL.md", "skills/{}/SKILL.md", "skills/{}.md")
_OF_OPERATOR = ("{}/SKILL.md", "{}.md")


async def first_prompt(run: Run, worktree: Worktree, gates: tuple[str, ...]) -> str:
    """Return the agent's first prompt: the one kept on this worktree, else a new one, which is kept now."""
    if (kept := worktree.kept_prompt()) is not None:
        return kept
    tools, spec = run.tools, run.spec
    briefing = Briefing(
        agent_id=run.agent.id,
        spec=spec,
        result_file=result_file(run.tree.seen(worktree.open_outbox(), RESULT_DIRECTORY)),
        rounds=MAX_ROUNDS,
        base=worktree.base.commit,
        survey=await tools.repositories.survey(worktree.base),
        skills=await find_skills(spec.context.skills, tools.skills_dir, worktree.base),
        gates=gates,
    )
    text = task_prompt(briefing)
    worktree.keep_prompt(text)
    return text


def result_file(directory: str = RESULT_DIRECTORY) -> str:
    """Return the path of the result as the agent sees it."""
    return f"{directory}/{FILE_NAME}"


async def find_skills(names: Sequence[str], ours: Path | None, base: Base | None) -> tuple[Skill, ...]:
    """Return the texts of the skills that are found: the operator's, and of the rest the repository's."""
    wanted = [name for name in dict.fromkeys(names) if SKILL_NAME.fullmatch(name)][:MAX_SKILLS]
    found = {name: skill for name in wanted if ours and (skill := _of_operator(ours, name))}
    places = {
        pattern.format(name): name for name in wanted if name not in found for pattern in _IN_REPOSITORY
    }
    if base is not None and places:
        for path, text in (await read_texts(base, list(places), max_bytes=MAX_SKILL_BYTES)).items():
            found.setdefault(places[path], Skill(places[path], text, trusted=False))
    return tuple(found[name] for name in wanted if name in found)


def _of_operator(directory: Path, name: str) -> Skill | None:
    for pattern in _OF_OPERATOR:
        try:
            with (directory / pattern.format(name)).open("rb") as file:
                text = file.read(MAX_SKILL_BYTES).decode(errors="replace")
        except OSError:
            continue
        return Skill(name, text, trusted=True)
    return None
