"""The commands that speak with an agent: say something to it, and print what was said.

What an agent said is escaped as its log is. Callers: `orchestrator.__main__`, by its table.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.output import Output
from orchestrator.cli.printable import to_json
from orchestrator.cli.session import Session, supervised
from orchestrator.cli.timeline import duration, plural

if TYPE_CHECKING:
    from orchestrator.client import Client


@click.command()
@click.argument("agent_id", metavar="AGENT")
@click.argument("text", metavar="TEXT")
@supervised
def message(session: Session, agent_id: str, text: str) -> None:
    """Say something to a live agent; with `-` as TEXT it is read from standard input."""
    words = sys.stdin.read() if text == "-" else text
    answer = session.run(lambda client: client.message(agent_id, words), doing="saying it")
    if session.output.as_json:
        session.output.json(answer)
    else:
        session.output.line(f"message {answer['message']} waits until {agent_id} can listen")


@click.command()
@click.argument("agent_id", metavar="AGENT")
@click.option("--content", is_flag=True, help="Print all that was said, as JSON, not only the end of it.")
@supervised
def transcript(session: Session, agent_id: str, *, content: bool) -> None:
    """Print an agent's turns, oldest first, and what was said in them."""

    async def read(client: Client) -> None:
        after = None
        while True:
            page = await client.transcript(agent_id, after=after)
            for turn in page["turns"]:
                show_turn(session.output, turn, content=content)
            if (after := page.get("next")) is None:
                return

    session.run(read)


def show_turn(output: Output, turn: dict[str, Any], *, content: bool) -> None:
    """Print one turn, or what came of its tools."""
    if output.as_json:
        output.json(turn)
        return
    time = (f"{str(turn.get('time') or '')[11:19]} ", "dim")
    if turn.get("kind") == "turn":
        output.line(
            time, (f"turn {turn.get('turn')}", "bold"), f", prompt {turn.get('prompt')}: {_cost(turn)}"
        )
    else:
        output.line(time, (f"tools: {plural(_usage(turn, 'toolCalls'), 'call')}", "dim"))
    for line in str(turn.get("text") or "").splitlines():
        output.line(f"    {line}")
    if content and turn.get("content") is not None:
        output.line(("    " + to_json({"content": turn["content"]}), "dim"))


def _cost(turn: dict[str, Any]) -> str:
    exit_code = turn.get("exitCode")
    how = str(turn.get("stopReason")) if exit_code is None else f"exit status {exit_code}"
    parts = [how, duration(float(turn.get("durationMs") or 0))]
    if turn.get("model"):
        tokens = _usage(turn, "inputTokens"), _usage(turn, "outputTokens")
        parts += [str(turn["model"]), f"{tokens[0]} tokens in, {tokens[1]} out"]
    return ", ".join(parts)


def _usage(turn: dict[str, Any], figure: str) -> int:
    return int((turn.get("usage") or {}).get(figure) or 0)
