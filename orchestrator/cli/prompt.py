"""The command `prompt`: what an agent of a role is told, for an operator to look at.

It asks no supervisor: what only a checkout tells (the commit, the languages, the repository's own skills) is
left out. Callers: `orchestrator.__main__`, by its table.
"""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli import request
from orchestrator.cli.failure import USAGE, Failed
from orchestrator.cli.output import Output
from orchestrator.cli.spawn import ROLES

#: Stands for a task where none is given.
EXAMPLE: dict[str, Any] = {
    "taskId": "EXAMPLE-1",
    "context": {"repository": "https://git.example.org/repository.git", "instructions": "(the instructions)"},
}
EXAMPLE_AGENT = "00000000-0000-0000-0000-000000000000"


@click.command()
@click.argument("role", type=click.Choice(ROLES))
@click.option("--task", metavar="FILE", help="A task as `spawn -f` takes it; - is standard input.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
def prompt(role: str, *, task: str | None, as_json: bool) -> None:
    """Print what an agent of this ROLE is told at first."""
    body = request.build(task, {"role": role}) if task is not None else {**EXAMPLE, "agentType": role}
    text = _prompt_of(body)
    output = Output(as_json=as_json)
    if as_json:
        output.json({"role": role, "taskId": body["taskId"], "prompt": text})
        return
    for line in text.removesuffix("\n").split("\n"):
        output.line(line)


def _prompt_of(body: dict[str, Any]) -> str:
    import trio  # noqa: PLC0415 - `--help` need not wait for these
    from pydantic import ValidationError  # noqa: PLC0415 - as above

    from orchestrator.agents.prompt import Briefing, task_prompt  # noqa: PLC0415 - as above
    from orchestrator.config import read_settings  # noqa: PLC0415 - as above
    from orchestrator.core.policy import MAX_ROUNDS  # noqa: PLC0415 - as above
    from orchestrator.core.spec import TaskSpec  # noqa: PLC0415 - as above
    from orchestrator.gates.registry import make_gates  # noqa: PLC0415 - as above
    from orchestrator.supervise.briefing import find_skills, result_file  # noqa: PLC0415 - as above

    settings = read_settings()
    try:
        spec = TaskSpec.model_validate(body, strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        why = first["msg"].removeprefix("Value error, ")
        raise Failed(f"{field}: {why}", code="usage", exit_status=USAGE) from None
    briefing = Briefing(
        agent_id=EXAMPLE_AGENT,
        spec=spec,
        result_file=result_file(),
        rounds=MAX_ROUNDS,
        skills=trio.run(find_skills, spec.context.skills, settings.skills_dir, None),
        gates=() if settings.yolo_mode else make_gates().plan(spec.profile, spec.gates).run,
    )
    return task_prompt(briefing)
