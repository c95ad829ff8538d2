"""The commands about work that did not land: salvage list, show, drop. Called by `orchestrator.__main__`."""

from __future__ import annotations

from operator import methodcaller

import click

from orchestrator.cli.output import age
from orchestrator.cli.session import Session, supervised
from orchestrator.cli.timeline import plural


@click.group()
def salvage() -> None:
    """Look at work that did not land and is kept, get it back, or let it go."""


@salvage.command("list")
@supervised
def list_salvages(session: Session) -> None:
    """List what is kept, the newest first."""
    answer = session.run(lambda client: client.salvage(), doing="asking for what is kept")
    if session.output.as_json:
        session.output.json(answer)
        return
    if not answer["salvages"]:
        session.output.line(("nothing is kept", "dim"))
        return
    session.output.table(
        ("agent", "task", "reason", "commit", "kept for", "repository"),
        [
            (
                each.get("agentId"),
                each.get("taskId"),
                each.get("reason"),
                str(each.get("commit"))[:12],
                age(each.get("keptAt")),
                each.get("repository"),
            )
            for each in answer["salvages"]
        ],
    )
    if answer.get("more"):
        session.output.line((f"and {answer['more']} more", "dim"))
    if answer.get("keepDays"):
        session.output.line((f"each goes after {plural(answer['keepDays'], 'day')}", "dim"))


@salvage.command()
@click.argument("agent_id", metavar="AGENT")
@click.option("--patch", is_flag=True, help="Print it as a patch.")
@click.option("--raw", is_flag=True, help="As a patch for a file or `git apply`: control characters and all.")
@supervised
def show(session: Session, agent_id: str, *, patch: bool, raw: bool) -> None:
    """Show what is kept of an agent, and how to get it back."""
    if patch or raw:
        text = session.run(lambda client: client.salvage_patch(agent_id), doing="asking for the patch")
        if session.output.as_json:
            session.output.json({"agentId": agent_id, "patch": text})
        elif raw:
            session.output.raw(text)
        else:
            session.output.diff(text)
        return
    answer = session.run(lambda client: client.salvage(agent_id), doing="asking for what is kept")
    if session.output.as_json:
        session.output.json(answer)
        return
    fields = ("agentId", "taskId", "reason", "repository", "ref", "commit", "base", "keptAt")
    session.output.fields([(name, answer.get(name)) for name in fields])
    session.output.table(
        ("file", "added", "removed"),
        [(file.get("path"), file.get("additions"), file.get("deletions")) for file in answer["files"]],
    )
    if answer.get("more"):
        session.output.line((f"and {answer['more']} more files", "dim"))
    session.output.line(f"in a clone, as who may read the state directory: {answer.get('fetch')}")
    session.output.line(("anywhere: orchestrator salvage show --raw AGENT | git apply -3", "dim"))


@salvage.command()
@click.argument("agent_ids", metavar="AGENT...", nargs=-1, required=True)
@supervised
def drop(session: Session, agent_ids: tuple[str, ...]) -> None:
    """Keep the work of agents no more; an admin's right, and audited."""
    for agent_id in agent_ids:
        answer = session.run(methodcaller("drop_salvage", agent_id), doing=f"dropping {agent_id}")
        if session.output.as_json:
            session.output.json(answer)
        else:
            session.output.line((f"{agent_id} is kept no more", "yellow"), f": it was {answer['commit']}")
