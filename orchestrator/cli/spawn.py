"""The command that hands a task over: spawn. Callers: `orchestrator.__main__`, by its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import request
from orchestrator.cli.agents import show_status
from orchestrator.cli.session import Session, supervised
from orchestrator.cli.streams import show_event, show_log

if TYPE_CHECKING:
    from orchestrator.client import Client

ROLES = ("worker", "reviewer", "tester", "starter", "coding", "deployer", "verifier", "auditor")


@click.command()
@click.option(
    "-f", "file", metavar="FILE", help="The request as JSON; - is standard input. Flags win over it."
)
@click.option("--task", metavar="ID", help="The task's id; made up if missing.")
@click.option("--repository", metavar="URL", help="The repository; a local path becomes file://.")
@click.option("--branch", help="The branch that the work begins at.")
@click.option("--instructions", metavar="TEXT", help="What to do; @FILE reads it from a file.")
@click.option("--work-item", multiple=True, metavar="ID", help="A work item that this belongs to.")
@click.option("--skill", multiple=True, help="A skill that the work asks for.")
@click.option("--priority", type=click.IntRange(1, 10), help="10 goes first.")
@click.option("--role", type=click.Choice(ROLES), help="What the agent is for.")
@click.option("--gate-profile", type=click.Choice(["strict", "standard", "minimal", "custom"]))
@click.option("--gate", multiple=True, metavar="NAME", help="Exactly these gates.")
@click.option("--runtime", metavar="NAME", help="What does the thinking; `command` where a COMMAND is given.")
@click.option("--model", metavar="NAME", help="The model.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable of the agent's environment.")
@click.option("--timeout", type=click.IntRange(1), metavar="SECONDS", help="The agent's wall clock.")
@click.option("--max-retries", type=click.IntRange(0), metavar="N", help="Further attempts after a failure.")
@click.option("--landing-branch", metavar="NAME", help="The branch that the work lands on.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit status 1 where it is not `completed`.")
@click.option("--follow", is_flag=True, help="The same, and print what the agent writes.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@supervised
def spawn(session: Session, file: str | None, *, wait: bool, follow: bool, **flags: Any) -> int:  # noqa: ANN401
    """Hand a task over to a new agent.

    Everything after -- is the COMMAND that the agent runs.
    """
    body = request.build(file, flags)
    answer = session.run(lambda client: client.spawn(body), doing="handing the task over")
    if not (wait or follow):
        _show_spawned(session, answer)
        return 0
    final = session.run(lambda client: _see_through(session, client, answer["agentId"], follow=follow))
    if session.output.as_json:
        session.output.json(final)
    else:
        show_status(session, final)
    return 0 if final.get("status") == "completed" else 1


def _show_spawned(session: Session, answer: dict[str, Any]) -> None:
    if session.output.as_json:
        session.output.json(answer)
        return
    place = answer.get("queuePosition")
    waits = f", number {place} in the queue" if place else ""
    session.output.line(f"{answer['agentId']} {answer['status']} for {answer['taskId']}{waits}")


async def _see_through(session: Session, client: Client, agent_id: str, *, follow: bool) -> dict[str, Any]:
    """Wait for an agent's end, and that of every automatic retry after it; return the last status."""

    def see(event: dict[str, Any]) -> None:
        if not follow and not session.output.as_json:
            show_event(session.output, event)

    while True:
        if follow:
            async for line in client.logs(agent_id, follow=True):
                show_log(session.output, line)
        final = await client.wait(agent_id, seen=see)
        if not final.get("nextAgentId"):
            return final
        agent_id = final["nextAgentId"]
