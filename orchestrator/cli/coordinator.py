"""The command that judges for other machines and hands tasks over: coordinator.

Callers: `orchestrator.__main__`, by its table.
"""

from __future__ import annotations

import os
from functools import partial

import click

from orchestrator.cli.loading import loading
from orchestrator.cli.session import Session, supervised


@click.command()
@supervised
def coordinator(session: Session) -> None:
    """Judge candidates for orchestrators, and dispatch tasks to one, until SIGTERM or SIGINT.

    It listens on COORDINATOR_PORT; its settings are environment variables. --url, --token-file and --home
    say which orchestrator gets the tasks.
    """
    with loading():
        import trio  # noqa: PLC0415 - the whole program hangs on it; `--help` need not wait for that

        from orchestrator.config import read_settings  # noqa: PLC0415 - as above
        from orchestrator.coordinator import service  # noqa: PLC0415 - as above

    def announce(url: str) -> None:
        if session.output.as_json:
            session.output.json({"url": url, "pid": os.getpid()})
        elif session.output.console.is_terminal:
            session.output.line("listening on ", (url, "bold"))

    where = session.address()
    target = service.Orchestrator(where.url, where.socket, where.token)
    trio.run(partial(service.serve, read_settings(), target, ready=announce))
