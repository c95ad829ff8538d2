"""The commands about the queue. Callers: `orchestrator.__main__`, by its table."""

from __future__ import annotations

from operator import methodcaller

import click

from orchestrator.cli.session import Session, supervised


@click.group()
def queue() -> None:
    """Look at the queue, pause it, resume it, set it."""


@queue.command()
@supervised
def stats(session: Session) -> None:
    """Show how much waits, runs and has ended."""
    answer = session.run(lambda client: client.queue_stats(), doing="asking for the queue")
    if session.output.as_json:
        session.output.json(answer)
    else:
        session.output.fields(answer.items())


@queue.command()
@supervised
def pause(session: Session) -> None:
    """Take nothing more from the queue; what runs goes on, also across a restart."""
    _switch(session, session.run(lambda client: client.queue_pause(), doing="pausing the queue"))


@queue.command()
@supervised
def resume(session: Session) -> None:
    """Take work from the queue again."""
    _switch(session, session.run(lambda client: client.queue_resume(), doing="resuming the queue"))


@queue.command()
@click.argument("key", type=click.Choice(["paused", "stop_on_failure", "max_concurrent"]), required=False)
@click.argument("value", required=False)
@supervised
def settings(session: Session, key: str | None, value: str | None) -> None:
    """Show the queue's settings, or change one: true, false or a number; a restart keeps it."""
    if key is not None and value is None:
        raise click.UsageError(f"to what value {key} is to be set is missing")
    answer = session.run(
        lambda client: client.queue_set(key, str(value)) if key else client.queue_settings(),
        doing="asking for the queue's settings",
    )
    if session.output.as_json:
        session.output.json(answer)
    else:
        session.output.fields(answer.items())


@queue.command()
@click.argument("task_ids", metavar="TASK...", nargs=-1)
@click.option("--all", "whole", is_flag=True, help="All that failed, instead of those that are named.")
@click.option("--reason", help="With --all: those that failed for this reason.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, help="With --all: so many at most.")
@supervised
def requeue(
    session: Session, task_ids: tuple[str, ...], *, whole: bool, reason: str | None, limit: int
) -> int:
    """Queue tasks that failed for good once more; `--all --json` tells what was refused."""
    if whole is bool(task_ids):
        raise click.UsageError("name tasks, or say --all")
    if whole:
        answer = session.run(
            lambda client: client.requeue_all(reason=reason, limit=limit), doing="queueing what failed"
        )
        if session.output.as_json:
            session.output.json(answer)
        else:
            more = "; there are more" if answer["more"] else ""
            refused = len(answer["refused"])
            session.output.line(f"{len(answer['requeued'])} queued once more, {refused} refused{more}")
        return 1 if answer["refused"] else 0
    for task_id in task_ids:
        one = session.run(methodcaller("requeue", task_id), doing=f"queueing {task_id} once more")
        if session.output.as_json:
            session.output.json(one)
        else:
            session.output.line(f"{one['taskId']} is queued once more: {one['agentId']}")
    return 0


def _switch(session: Session, answer: dict[str, object]) -> None:
    if session.output.as_json:
        session.output.json(answer)
    elif answer.get("paused"):
        session.output.line(("the queue is paused", "yellow"))
    else:
        session.output.line(("the queue is open", "green"))
