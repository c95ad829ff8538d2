"""The commands about the whole: freeze, thaw, drain. Callers: `orchestrator.__main__`, by its table."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli.session import Session, supervised
from orchestrator.cli.timeline import duration, plural


@click.command()
@supervised
def freeze(session: Session) -> None:
    """Stop every process of every agent and admit nothing, until thawed; also across a restart."""
    _show(session, session.run(lambda client: client.freeze(), doing="freezing"))


@click.command()
@supervised
def thaw(session: Session) -> None:
    """Let everything go on where it stood; where nothing is frozen, end a drain."""
    _show(session, session.run(lambda client: client.thaw(), doing="thawing"))


@click.command()
@supervised
def drain(session: Session) -> None:
    """Admit nothing, and let the live agents run to their end; until a thaw or a restart."""
    _show(session, session.run(lambda client: client.drain(), doing="draining"))


def _show(session: Session, answer: dict[str, Any]) -> None:
    if session.output.as_json:
        session.output.json(answer)
        return
    agents = plural(answer.get("agents") or 0, "agent")
    if answer.get("frozen"):
        processes = plural(answer.get("processes") or 0, "process")
        still = f": {agents} and {processes} stand still, nothing is admitted"
        took = f" ({duration(answer.get('elapsedMs') or 0)})"
        session.output.line(("frozen", "bold red"), still + took)
    elif answer.get("draining"):
        session.output.line(("draining", "yellow"), f": nothing is admitted, {agents} to end")
    else:
        session.output.line(("open", "green"), f": work is admitted, {agents} at work")
