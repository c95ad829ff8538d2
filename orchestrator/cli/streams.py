"""The commands that read a stream, once or for as long as it lasts: logs and events.

The invariant: a line is printed as soon as it arrives, one JSON document a line under `--json`. Callers:
`orchestrator.__main__`, by its table, and `orchestrator.cli.spawn`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.output import Output
from orchestrator.cli.session import Session, supervised
from orchestrator.cli.timeline import describe

if TYPE_CHECKING:
    from orchestrator.client import Client

STREAMS = ("stdout", "stderr", "system")


@click.command()
@click.argument("agent_id", metavar="AGENT")
@click.option("-f", "--follow", is_flag=True, help="Go on until the agent has ended.")
@click.option("--after", type=click.IntRange(0), default=0, metavar="SEQ", help="Begin after this line.")
@click.option("--stream", type=click.Choice(STREAMS), help="Only lines of this stream.")
@supervised
def logs(session: Session, agent_id: str, *, follow: bool, after: int, stream: str | None) -> None:
    """Print what an agent wrote."""

    async def read(client: Client) -> None:
        async for line in client.logs(agent_id, follow=follow, after=after, stream=stream):
            show_log(session.output, line)

    session.run(read)


def show_log(output: Output, entry: dict[str, Any]) -> None:
    """Print one line of an agent's log."""
    if output.as_json:
        output.json(entry)
        return
    stream = str(entry.get("stream", ""))
    style = {"stderr": "yellow", "stdout": ""}.get(stream, "dim")
    output.line(
        (f"{_clock(entry.get('time'))} ", "dim"),
        (f"{stream:<6} ", "dim"),
        (str(entry.get("content", "")), style),
    )


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on until interrupted.")
@click.option("--after", type=click.IntRange(0), metavar="SEQ", help="Begin after this event.")
@click.option("--agent", "agent_id", metavar="AGENT", help="Only events of this agent.")
@click.option("--task", "task_id", metavar="TASK", help="Only events of this task.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only events of these types.")
@supervised
def events(
    session: Session,
    *,
    follow: bool,
    after: int | None,
    agent_id: str | None,
    task_id: str | None,
    types: tuple[str, ...],
) -> None:
    """Print what happened, and with -f what happens."""

    async def read(client: Client) -> None:
        start = 0 if after is None and not follow else after
        async for event in client.events(
            follow=follow, after=start, agent_id=agent_id, task_id=task_id, types=types
        ):
            show_event(session.output, event)

    session.run(read)


def show_event(output: Output, event: dict[str, Any]) -> None:
    """Print one event."""
    if output.as_json:
        output.json(event)
        return
    if gap := event.get("gap"):
        output.line((f"events {gap['from']} to {gap['to']} were missed: this reader fell behind", "red"))
        return
    line = describe(event)
    output.line(
        (f"{event.get('seq', ''):>6} {_clock(event.get('time'))} ", "dim"),
        f"{event.get('taskId') or '-':<20} ",
        (f"{line.what:<16} ", line.tone),
        line.about,
    )


def _clock(moment: object) -> str:
    """Return the time of day of a moment of the API: a stream is read today."""
    return str(moment or "")[11:23]
