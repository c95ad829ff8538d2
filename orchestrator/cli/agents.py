"""The commands about one agent or all of them: status, list, kill, kill-all, retry, diff.

Callers: `orchestrator.__main__`, by its table.
"""

from __future__ import annotations

import json
from operator import methodcaller
from typing import Any

import click

from orchestrator.cli.failure import Failed
from orchestrator.cli.output import YOLO_BANNER, age
from orchestrator.cli.session import Session, supervised
from orchestrator.cli.timeline import duration, plural

STATUSES = ("spawning", "running", "completed", "failed", "killed")

Answer = dict[str, Any]


@click.command()
@click.argument("agent_id", metavar="AGENT")
@supervised
def status(session: Session, agent_id: str) -> None:
    """Show one agent: how far it is, what it holds, how it was judged, how it ended."""
    answer = session.run(lambda client: client.status(agent_id), doing="asking for the agent's status")
    if session.output.as_json:
        session.output.json(answer)
    else:
        show_status(session, answer)


def show_status(session: Session, answer: Answer) -> None:
    """Print an agent's status for a person."""
    usage, resources = answer.get("usage") or {}, dict(answer.get("resources") or {})
    enforced, watched = resources.pop("enforced", None), resources.pop("watched", None)
    session.output.fields(
        [
            ("agent", answer.get("agentId")),
            ("task", answer.get("taskId")),
            ("status", answer.get("status")),
            ("phase", answer.get("phase")),
            ("waits for", answer.get("waitsFor") or None),
            ("reason", answer.get("reason")),
            ("error", answer.get("error")),
            ("role", answer.get("role")),
            ("runtime", answer.get("runtime")),
            ("attempt", answer.get("attempt")),
            ("branch", answer.get("branch")),
            ("commit", answer.get("commit")),
            ("pull request", answer.get("pullRequest")),
            ("by agents", None if (share := answer.get("aiShare")) is None else f"{share:.0%} of its lines"),
            ("spawned", answer.get("spawnedAt")),
            ("started", answer.get("startedAt")),
            ("ended", answer.get("completedAt")),
            ("next agent", answer.get("nextAgentId")),
            ("usage", {key: value for key, value in usage.items() if value}),
            ("resources", {key: value for key, value in resources.items() if value is not None}),
            ("kernel enforces", enforced),
            ("watched", watched),
        ]
    )
    if answer.get("result"):
        session.output.lines("result", json.dumps(answer["result"], indent=2, ensure_ascii=False).split("\n"))
    if answer.get("yolo"):
        session.output.line(("its quality gates were skipped (YOLO_MODE)", "bold red"))
    for verdict in answer.get("gates") or ():
        word, style = ("passed", "green") if verdict.get("approved") else ("rejected", "red")
        tests = f", {plural(verdict['tests'], 'test')}" if verdict.get("tests") is not None else ""
        tests += f", coverage {verdict['coverage']:g} %" if verdict.get("coverage") is not None else ""
        session.output.line(
            f"gate {verdict.get('gate')} ",
            (word, style),
            f" in round {verdict.get('round')}: {verdict.get('message')}"
            f" ({duration(verdict.get('durationMs') or 0)}{tests})",
        )


@click.command("list")
@click.option("--status", "wanted", type=click.Choice(STATUSES), help="Only agents with this status.")
@click.option("--task", help="Only the attempts at this task.")
@click.option("--role", help="Only agents of this role.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@click.option("--after", metavar="CURSOR", help="Go on where an earlier list ended.")
@supervised
def list_agents(
    session: Session, *, wanted: str | None, task: str | None, role: str | None, limit: int, after: str | None
) -> None:
    """List agents, the newest first."""
    answer = session.run(
        lambda client: client.agents(status=wanted, task_id=task, role=role, limit=limit, after=after),
        doing="asking for the agents",
    )
    if session.output.as_json:
        session.output.json(answer)
        return
    health = session.run(lambda client: client.health(), doing="asking how it is")
    if health.get("yolo"):
        session.output.line((YOLO_BANNER, "bold red"))
    agents = answer["agents"]
    if not agents:
        session.output.line(("no agents", "dim"))
        return
    session.output.table(
        ("agent", "task", "status", "phase", "role", "runtime", "age", "branch"),
        [
            (
                agent.get("agentId"),
                agent.get("taskId"),
                agent.get("status"),
                agent.get("reason") or agent.get("phase"),
                agent.get("role"),
                agent.get("runtime"),
                age(agent.get("spawnedAt")),
                agent.get("branch"),
            )
            for agent in agents
        ],
    )
    if answer.get("next"):
        session.output.line((f"there are more: --after {answer['next']}", "dim"))


@click.command()
@click.argument("agent_ids", metavar="AGENT...", nargs=-1, required=True)
@supervised
def kill(session: Session, agent_ids: tuple[str, ...]) -> int:
    """End agents now, with proof that nothing of them is left."""
    left = 0
    for agent_id in agent_ids:
        answer = session.run(methodcaller("kill", agent_id), doing=f"killing {agent_id}")
        left += answer["remaining"]
        if session.output.as_json:
            session.output.json(answer)
        else:
            session.output.line((f"{agent_id} killed", "yellow"), f": {_proof(answer)}")
    return 1 if left else 0


@click.command("kill-all")
@click.option("--freeze", is_flag=True, help="Admit nothing more, until `orchestrator thaw`.")
@supervised
def kill_all(session: Session, *, freeze: bool) -> int:
    """End every live agent now, with proof that nothing of them is left."""
    answer = session.run(lambda client: client.kill_all(freeze=freeze), doing="killing every agent")
    if session.output.as_json:
        session.output.json(answer)
    else:
        session.output.line(f"{answer.get('message')}: {_proof(answer)}")
        for error in answer.get("errors") or ():
            session.output.line((error, "red"))
    return 1 if answer.get("failed") or answer.get("remaining") else 0


def _proof(answer: Answer) -> str:
    killed = answer.get("killedProcesses")
    processes = f"{plural(killed, 'process')} killed, " if killed is not None else ""
    return f"{processes}{answer['remaining']} remaining, {duration(answer['elapsedMs'])}"


@click.command()
@click.argument("agent_id", metavar="AGENT")
@supervised
def retry(session: Session, agent_id: str) -> None:
    """Start a new agent for the task of one that has ended."""
    answer = session.run(lambda client: client.retry(agent_id), doing="asking for another attempt")
    if session.output.as_json:
        session.output.json(answer)
    else:
        session.output.line(f"{answer['agentId']} goes on with {answer['taskId']}: {answer['status']}")


@click.command()
@click.argument("agent_id", metavar="AGENT")
@click.option(
    "--raw", is_flag=True, help="Leave control characters as they are: for a file, or for git apply."
)
@supervised
def diff(session: Session, agent_id: str, *, raw: bool) -> None:
    """Show what an agent changed: the diff of its candidate."""
    text = session.run(lambda client: client.diff(agent_id), doing="asking for the diff")
    if session.output.as_json:
        session.output.json({"agentId": agent_id, "diff": text})
    elif raw:
        session.output.raw(text)
    elif text:
        session.output.diff(text)
    else:
        raise Failed(f"{agent_id} has no candidate yet", code="no_candidate")
